"""Indexing: gathers, scatters and masks. Where one dim is pointed into it may be cut, and what the ranks find adds up.

Dims that several indices or writes point into are whole; the others pass.
"""

from typing import Any

import torch

from shardwright.layout import Size
from shardwright.rules.dims import dim_of, named_dims
from shardwright.rules.lookup import look_up, without_others
from shardwright.rules.registry import Entry, notation_rule
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten
_FIRST = (frozenset({0}),)


def index_rule(call: Call) -> Rule | None:
    """``x[i, :, j]``: dims without an index pass; index tensors broadcast into their place."""
    source = call.operands[0]
    indices = call["indices"]
    positions = [dim for dim, index in enumerate(indices) if index is not None]
    if any("bool" in str(index.dtype) or "uint8" in str(index.dtype) for index in indices if index is not None):
        return None
    dims, sizes = named_dims(source.shape)
    width = max(index.ndim for index in indices if index is not None)
    together = positions == list(range(positions[0], positions[-1] + 1))
    place = positions[0] if together else 0
    block = tuple(Term((f"i{i}",)) for i in range(width))
    sizes.update((f"i{i}", size) for i, size in enumerate(call.result.shape[place : place + width]))
    rest = [term for dim, term in enumerate(dims) if dim not in positions]
    result = (*rest[:place], *block, *rest[place:]) if together else (*block, *rest)
    operands = [dims, *(_broadcast(index.shape, block, sizes) for index in indices if index is not None)]
    pointed = frozenset(f"d{dim}" for dim in positions)
    if len(positions) == 1 and isinstance(source.shape[positions[0]], int):
        reduces = dict.fromkeys(pointed, "sum")
        localize = local_index
        return Rule(tuple(operands), (tuple(result),), sizes, reduces=reduces, linear=_FIRST, localize=localize)
    return Rule(tuple(operands), (tuple(result),), sizes, pointed, linear=_FIRST)


def local_index(local: Local) -> Any:
    """One indexed dim, cut: what this rank holds is looked up, and zeros stand for the rest."""
    indices = local.arguments["indices"]
    dim = next(i for i, index in enumerate(indices) if index is not None)
    cut = local.strategy.cut(f"d{dim}")
    if cut is None:
        return local.run_call()
    # Counted from the end they would all lie elsewhere.
    index = local.run(aten.remainder.Scalar, indices[dim], local.call.operands[0].shape[dim])
    source, index, outside = look_up(local, cut, dim, local.arguments["self"], index)
    values = local.run(local.call.op, source, [*indices[:dim], index, *indices[dim + 1 :]])
    return without_others(local, values, outside, after=local.call.operands[0].ndim - dim - 1)


def index_put_rule(call: Call) -> Rule | None:
    """``x[i, :, j] = values``: dims without an index pass, jointly with the values' dims in their place."""
    source, values = call.operands[0], call.operands[-1]
    indices = call["indices"]
    positions = [dim for dim, index in enumerate(indices) if index is not None]
    tensors = [index for index in indices if index is not None]
    if any("bool" in str(index.dtype) or "uint8" in str(index.dtype) for index in tensors):
        return None
    dims, sizes = named_dims(source.shape)
    width = max(index.ndim for index in tensors)
    together = positions == list(range(positions[0], positions[-1] + 1))
    place = positions[0] if together else 0
    block = tuple(Term((f"i{i}",)) for i in range(width))
    for tensor in tensors:
        for i, size in enumerate(tensor.shape, width - tensor.ndim):
            if sizes.get(f"i{i}", 1) == 1:
                sizes[f"i{i}"] = size
    rest = [term for dim, term in enumerate(dims) if dim not in positions]
    target = (*rest[:place], *block, *rest[place:]) if together else (*block, *rest)
    operands = [
        dims,
        *(_broadcast(index.shape, block, sizes) for index in tensors),
        _broadcast(values.shape, tuple(target), sizes),
    ]
    # Every rank must see all writes, so the indices are whole.
    fixed = frozenset(f"d{dim}" for dim in positions) | {f"i{i}" for i in range(width)}
    return Rule(tuple(operands), (dims,), sizes, fixed, linear=(frozenset({0, len(operands) - 1}),))


def _broadcast(shape: tuple[Size, ...], dims: Dims, sizes: dict[str, Size]) -> Dims:
    own = dims[len(dims) - len(shape) :] if shape else ()
    return tuple(
        Term() if size == 1 and sizes[term.factors[0]] != 1 else term for size, term in zip(shape, own, strict=True)
    )


def select_rows_rule(call: Call) -> Rule:
    """``index_select``: rows of one dim by a list of indices, along which the result may be cut."""
    shape, dim = call.operands[0].shape, int(call["dim"]) % max(call.operands[0].ndim, 1)
    dims, sizes = named_dims(shape)
    sizes["n"] = call.operands[1].shape[0] if call.operands[1].ndim else 1
    rows = (Term(("n",)),) if call.operands[1].ndim else ()
    result = tuple(Term(("n",)) if i == dim else term for i, term in enumerate(dims))
    if not isinstance(shape[dim] if shape else None, int):
        return Rule((dims, rows), (result,), sizes, frozenset({f"d{dim}"}), linear=_FIRST)
    return Rule((dims, rows), (result,), sizes, reduces={f"d{dim}": "sum"}, linear=_FIRST, localize=local_lookup)


def local_lookup(local: Local) -> Any:
    """``index_select`` and ``gather`` along a cut dim: what this rank holds, and zeros for the rest."""
    dim = dim_of(local.call, local.call.operands[0].ndim)
    cut = local.strategy.cut(f"d{dim}")
    if cut is None:
        return local.run_call()
    source, index, outside = look_up(local, cut, dim, local.arguments["self"], local.arguments["index"])
    values = local.run(local.call.op, source, dim, index)
    after = 0 if local.call.op._schema.name == "aten::gather" else local.call.operands[0].ndim - dim - 1
    return without_others(local, values, outside, after=after)


def gather_rule(call: Call) -> Rule:
    """``gather``: dims other than the gathered one pass where index and source have the same size there."""
    source, index = call.operands[0], call.operands[1]
    dim = int(call["dim"]) % max(source.ndim, 1) if call["dim"] is not None else 0
    dims, sizes = named_dims(source.shape)
    picked = tuple(
        Term((f"i{i}",)) if i == dim or size != source.shape[i] else dims[i] for i, size in enumerate(index.shape)
    )
    sizes.update((f"i{i}", size) for i, size in enumerate(index.shape) if picked[i].factors == (f"i{i}",))
    loose = {f"d{i}" for i, term in enumerate(picked) if term.factors == (f"i{i}",)}
    fixed = loose | {f"i{i}" for i in range(index.ndim) if i != dim and f"i{i}" in sizes}
    if not source.ndim or not isinstance(source.shape[dim], int):
        return Rule((dims, picked), (picked,), sizes, frozenset(fixed), linear=_FIRST)
    fixed -= {f"d{dim}"}
    reduces = {f"d{dim}": "sum"}
    return Rule(
        (dims, picked), (picked,), sizes, frozenset(fixed), reduces=reduces, linear=_FIRST, localize=local_lookup
    )


def scatter_rule(call: Call) -> Rule:
    """``scatter`` and its like: dims other than the scattered one pass where all sizes agree."""
    source = call.operands[0]
    dim = int(call["dim"]) % max(source.ndim, 1)
    dims, sizes = named_dims(source.shape)
    operands: list[Dims] = [dims]
    fixed = {f"d{dim}"}
    for position, tensor in enumerate(call.operands[1:]):
        own = []
        for i, size in enumerate(tensor.shape):
            shared = i != dim and all(t.shape[i] == source.shape[i] for t in call.operands[1:] if t.ndim == source.ndim)
            name = f"d{i}" if shared else f"x{position}{i}"
            if not shared:
                sizes[name] = size
                fixed |= {name, f"d{i}"}
            own.append(Term((name,)))
        operands.append(tuple(own))
    name = call.op._schema.name
    adds = name == "aten::scatter_add" or (name == "aten::scatter" and call.arguments.get("reduce") is None)
    linear = (frozenset({0, 2}),) if adds and len(operands) == 3 else ()
    return Rule(tuple(operands), (dims,), sizes, frozenset(fixed), linear=linear)


def take_rule(call: Call) -> Rule:
    """``take``: indices into all elements in order; the source is whole, the indices are not."""
    source, sizes = named_dims(call.operands[0].shape)
    index, own = named_dims(call.operands[1].shape, "i")
    return Rule((source, index), (index,), {**sizes, **own}, frozenset(sizes), linear=(frozenset({0}),))


def put_rule(call: Call) -> Rule:
    """``put``, ``masked_scatter``: written in the order of all elements; everything is whole."""
    sides = [named_dims(tensor.shape, f"x{i}d") for i, tensor in enumerate(call.operands)]
    sizes = {name: size for _, own in sides for name, size in own.items()}
    result, own = named_dims(call.result.shape, "r")
    operands = tuple(dims for dims, _ in sides)
    values = frozenset({0, len(operands) - 1})
    return Rule(operands, (result,), {**sizes, **own}, frozenset({*sizes, *own}), linear=(values,))


def take_along_rule(call: Call) -> Rule | None:
    """``take_along_dim``: a gather whose other dims broadcast."""
    source, index = call.operands
    if call["dim"] is None or source.ndim != index.ndim:
        return None
    dim = int(call["dim"]) % max(source.ndim, 1)
    names = [f"d{i}" for i in range(source.ndim)]
    own = " ".join(f"{name}!" if i == dim else name for i, name in enumerate(names))
    picked = " ".join("i" if i == dim else name for i, name in enumerate(names))
    shapes = [source.shape, index.shape]
    return notation_rule(f"{own}, {picked} -> {picked}", shapes, [call.result.shape], linear=(frozenset({0}),))


def rows_rule(call: Call) -> Rule:
    """``index_copy``, ``index_add``, ``index_fill``: written along one dim, which is whole; the others pass."""
    source, dim = call.operands[0], int(call["dim"]) % max(call.operands[0].ndim, 1)
    dims, sizes = named_dims(source.shape)
    rows = call.operands[1].shape[0] if call.operands[1].ndim else 1
    sizes["n"] = rows
    operands: list[Dims] = [dims, (Term(("n",)),) if call.operands[1].ndim else ()]
    linear: tuple[frozenset[int], ...] = ()
    is_linear = call.op._schema.name in ("aten::index_add", "aten::index_copy")
    if len(call.operands) > 2:
        full = call.operands[2].ndim == source.ndim
        operands.append(
            tuple(Term(("n",)) if i == dim else t for i, t in enumerate(dims))
            if full
            else (Term(),) * call.operands[2].ndim
        )
        linear = (frozenset({0, 2}),) if full and is_linear else ()
    return Rule(tuple(operands), (dims,), sizes, frozenset({f"d{dim}", "n"}), linear=linear)


_ROWS, _SCATTER = Entry(rows_rule), Entry(scatter_rule)

RULES: dict[str, Entry] = {
    "aten::_unsafe_index.Tensor": Entry(index_rule),
    "aten::_unsafe_index_put": Entry(index_put_rule),
    "aten::gather": Entry(gather_rule),
    "aten::index.Tensor": Entry(index_rule),
    "aten::index_add": _ROWS,
    "aten::index_copy": _ROWS,
    "aten::index_fill.int_Scalar": _ROWS,
    "aten::index_fill.int_Tensor": _ROWS,
    "aten::index_put": Entry(index_put_rule),
    "aten::index_reduce": _ROWS,
    "aten::index_select": Entry(select_rows_rule),
    "aten::masked_scatter": Entry(put_rule),
    "aten::put": Entry(put_rule),
    "aten::scatter.reduce": _SCATTER,
    "aten::scatter.src": _SCATTER,
    "aten::scatter.value": _SCATTER,
    "aten::scatter.value_reduce": _SCATTER,
    "aten::scatter_add": _SCATTER,
    "aten::scatter_reduce.two": _SCATTER,
    "aten::take": Entry(take_rule),
    "aten::take_along_dim": Entry(take_along_rule),
}
