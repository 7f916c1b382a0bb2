"""Indexing: gathers, scatters and masks. Where one dim is pointed into it may be cut, and what the ranks find adds up.

Dims that several indices or writes point into are whole; the others pass.
"""

from dataclasses import dataclass
from typing import Any

import torch

from shardwright.layout.sizes import Size
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.operators.lookup import look_up, without_others
from shardwright.rules.registry import Entry, notation_rule
from shardwright.rules.rule import Call, Dims, Local, Rule, TensorMeta, Term

aten = torch.ops.aten
_FIRST = (frozenset({0}),)


@dataclass(frozen=True, slots=True)
class _Pointed:
    """How the indices of ``x[i, :, j]`` lie: the ``positions`` they point into, and the dims they make together.

    ``indices``: each with the first position it points into. ``block``: their broadcast dims, ``place``: where those go
    in ``target``, which is what is read or written.
    """

    indices: tuple[tuple[int, TensorMeta], ...]
    positions: tuple[int, ...]
    block: Dims
    place: int
    target: Dims

    @property
    def has_mask(self) -> bool:
        """Whether an index is a mask, whose number of trues is not known before the program runs."""
        return any(_is_mask(index) for _, index in self.indices)

    def operands(self, dims: Dims, sizes: dict[str, Size]) -> list[Dims]:
        """The dims of the indices: a mask has those it points into."""
        return [
            dims[at : at + index.ndim] if _is_mask(index) else _broadcast(index.shape, self.block, sizes)
            for at, index in self.indices
        ]


def _is_mask(index: TensorMeta) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _pointed(call: Call, dims: Dims) -> _Pointed | None:
    """What the indices of a call point into; None where a mask without dims makes a dim of its own."""
    found, positions, at = [], [], 0
    for index in call["indices"]:
        span = index.ndim if index is not None and _is_mask(index) else 1
        if index is not None:
            found.append((at, index))
            positions += range(at, at + span)
        at += span
    if any(_is_mask(index) and not index.ndim for _, index in found):
        return None
    block = tuple(Term((f"i{i}",)) for i in range(max(1 if _is_mask(index) else index.ndim for _, index in found)))
    # Indices with a dim between them put theirs first.
    together = positions == list(range(positions[0], positions[-1] + 1))
    place = positions[0] if together else 0
    rest = [term for dim, term in enumerate(dims) if dim not in positions]
    return _Pointed(tuple(found), tuple(positions), block, place, (*rest[:place], *block, *rest[place:]))


def index_rule(call: Call) -> Rule | None:
    """``x[i, :, j]``: dims without an index pass; index tensors broadcast into their place."""
    source = call.operands[0]
    dims, sizes = named_dims(source.shape)
    pointed = _pointed(call, dims)
    if pointed is None:
        return None
    names = [term.factors[0] for term in pointed.block]
    sizes.update(zip(names, call.result.shape[pointed.place :], strict=False))
    operands = (dims, *pointed.operands(dims, sizes))
    own = frozenset(f"d{dim}" for dim in pointed.positions)
    if pointed.has_mask:
        return Rule(operands, (pointed.target,), sizes, own.union(names), linear=_FIRST, multiplies=())
    if len(own) == 1 and isinstance(source.shape[pointed.positions[0]], int):
        reduces = dict.fromkeys(own, "sum")
        how: dict[str, Any] = {"reduces": reduces, "localize": local_index}
        return Rule(operands, (pointed.target,), sizes, linear=_FIRST, multiplies=(), **how)
    return Rule(operands, (pointed.target,), sizes, own, linear=_FIRST, multiplies=())


def local_index(local: Local) -> Any:
    """One indexed dim, cut: what this rank holds is looked up, and zeros stand for the rest."""
    indices = local.arguments["indices"]
    dim = next(i for i, index in enumerate(indices) if index is not None)
    cut = local.strategy.factor_cut(f"d{dim}")
    if cut is None:
        return local.run_call()
    # Counted from the end they would all lie elsewhere.
    index = local.run(aten.remainder.Scalar, indices[dim], local.call.operands[0].shape[dim])
    source, index, outside = look_up(local, cut, dim, local.arguments["self"], index)
    values = local.run(local.call.op, source, [*indices[:dim], index, *indices[dim + 1 :]])
    return without_others(local, values, outside, after=local.call.operands[0].ndim - dim - 1)


def index_put_rule(call: Call) -> Rule | None:
    """``x[i, :, j] = values``: dims without an index pass, jointly with the values' dims in their place.

    A mask whose values do not tell its trues apart chooses at every place alone, so its dims pass too.
    """
    values = call.operands[-1]
    dims, sizes = named_dims(call.operands[0].shape)
    pointed = _pointed(call, dims)
    if pointed is None:
        return None
    # The values' size where the indices' dims are: 1 for a dim that they lack.
    start = pointed.place - (len(pointed.target) - values.ndim)
    own = [values.shape[i] if i >= 0 else 1 for i in range(start, start + len(pointed.block))]
    for shape in [index.shape for _, index in pointed.indices if not _is_mask(index)] + [own]:
        for i, size in enumerate(shape, len(pointed.block) - len(shape)):
            if sizes.get(f"i{i}", 1) == 1:
                sizes[f"i{i}"] = size
    operands = (dims, *pointed.operands(dims, sizes), _broadcast(values.shape, pointed.target, sizes))
    # Every rank must see all writes, so the indices are whole.
    fixed = {term.factors[0] for term in pointed.block} | {f"d{dim}" for dim in pointed.positions}
    if len(pointed.indices) == 1 and pointed.has_mask and own == [1]:
        fixed = {"i0"}
    how: dict[str, Any] = {"linear": (frozenset({0, len(operands) - 1}),)}
    if call["accumulate"] and not pointed.has_mask and call.result.dtype != torch.bool:
        # But for those that add up: each rank's, and what was there on one of them.
        entries = {term.factors[0] for term in pointed.block}
        fixed -= entries
        how |= {"reduces": dict.fromkeys(entries, "sum"), "added": frozenset({0}), "multiplies": ()}
    return Rule(operands, (dims,), sizes, frozenset(fixed), **how)


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
        return Rule((dims, rows), (result,), sizes, frozenset({f"d{dim}"}), linear=_FIRST, multiplies=())
    how: dict[str, Any] = {"reduces": {f"d{dim}": "sum"}, "localize": local_lookup}
    return Rule((dims, rows), (result,), sizes, linear=_FIRST, multiplies=(), **how)


def local_lookup(local: Local) -> Any:
    """``index_select`` and ``gather`` along a cut dim: what this rank holds, and zeros for the rest."""
    dim = dim_of(local.call, local.call.operands[0].ndim)
    cut = local.strategy.factor_cut(f"d{dim}")
    if cut is None:
        return local.run_call()
    source, index, outside = look_up(local, cut, dim, local.arguments["self"], local.arguments["index"])
    values = local.run(local.call.op, source, dim, index)
    after = 0 if local.call.schema_name == "aten::gather" else local.call.operands[0].ndim - dim - 1
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
        return Rule((dims, picked), (picked,), sizes, frozenset(fixed), linear=_FIRST, multiplies=())
    fixed -= {f"d{dim}"}
    how: dict[str, Any] = {"reduces": {f"d{dim}": "sum"}, "localize": local_lookup}
    return Rule((dims, picked), (picked,), sizes, frozenset(fixed), linear=_FIRST, multiplies=(), **how)


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
    name = call.schema_name
    adds = name == "aten::scatter_add" or (name == "aten::scatter" and call.arguments.get("reduce") is None)
    linear = (frozenset({0, 2}),) if adds and len(operands) == 3 else ()
    entries = f"x0{dim}"
    how = _combined(call, entries) if operands[1] and len(operands) > 2 else {}
    if how and call.operands[1].shape[dim] == call.operands[2].shape[dim]:
        operands[2] = put(operands[2], dim, Term((entries,)))
        del sizes[f"x1{dim}"]
        fixed -= {entries, f"x1{dim}"}
    else:
        how = {}
    return Rule(tuple(operands), (dims,), sizes, frozenset(fixed), linear=linear, **how)


def _combined(call: Call, entries: str) -> dict[str, Any]:
    """How what several entries write to one place is combined, and with it what ranks write that have some of them.

    ``entries``: the factor that counts them. Empty where they are not combined.

    Sums start from what was there on one rank, extremes on every rank.
    """
    name, reduce = call.schema_name, call.arguments.get("reduce")
    if name in ("aten::scatter_add", "aten::index_add") or (name == "aten::scatter_reduce" and reduce == "sum"):
        found = {"reduces": {entries: "sum"}, "added": frozenset({0})}
    elif name in ("aten::scatter_reduce", "aten::index_reduce") and reduce in ("amax", "amin"):
        found = {"reduces": {entries: reduce[1:]}}
    else:
        return {}
    keeps = call.arguments.get("include_self", True) and call.operands[0].dtype != torch.bool
    return {**found, "multiplies": ()} if keeps else {}


def take_rule(call: Call) -> Rule:
    """``take``: indices into all elements in order; the source is whole, the indices are not."""
    source, sizes = named_dims(call.operands[0].shape)
    index, own = named_dims(call.operands[1].shape, "i")
    return Rule((source, index), (index,), {**sizes, **own}, frozenset(sizes), linear=(frozenset({0}),))


def masked_scatter_rule(call: Call) -> Rule:
    """``masked_scatter``: written in the order of the source's elements.

    Last dims that the mask does not tell apart pass where the source has them too: a true takes one row of them.
    """
    whole, mask, source = call.operands
    rows = untold_dims(whole, mask, source)
    if rows == 0 or whole.shape != call.result.shape:
        return put_rule(call)
    dims, sizes = named_dims(whole.shape)
    chosen, own = named_dims(mask.shape, "m")
    taken, places = named_dims(source.shape, "x")
    passing = dims[len(dims) - rows :]
    operands = (dims, tuple(Term() if size == 1 else term for size, term in zip(mask.shape, chosen, strict=True)))
    operands = (*operands, (*taken[: len(taken) - rows], *passing))
    sizes.update({**own, **places})
    fixed = frozenset(sizes) - {term.factors[0] for term in passing}
    return Rule(operands, (dims,), sizes, fixed, linear=(frozenset({0, 2}),))


def untold_dims(whole: TensorMeta, mask: TensorMeta, rows: TensorMeta) -> int:
    """The number of last dims that a mask of ``whole`` does not tell apart, and that ``rows`` has as well."""
    found = 0
    while (
        found < min(whole.ndim, rows.ndim)
        and (found >= mask.ndim or mask.shape[-found - 1] == 1)
        and whole.shape[-found - 1] == rows.shape[-found - 1]
    ):
        found += 1
    return found


def put_rule(call: Call) -> Rule:
    """``put``: written in the order of all elements; everything is whole."""
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
    """``index_copy``, ``index_add``, ``index_fill``: written along one dim, which is whole; the others pass.

    What is added up may be cut by entries.
    """
    source, dim = call.operands[0], int(call["dim"]) % max(call.operands[0].ndim, 1)
    dims, sizes = named_dims(source.shape)
    rows = call.operands[1].shape[0] if call.operands[1].ndim else 1
    sizes["n"] = rows
    operands: list[Dims] = [dims, (Term(("n",)),) if call.operands[1].ndim else ()]
    linear: tuple[frozenset[int], ...] = ()
    is_linear = call.schema_name in ("aten::index_add", "aten::index_copy")
    if len(call.operands) > 2:
        full = call.operands[2].ndim == source.ndim
        operands.append(
            tuple(Term(("n",)) if i == dim else t for i, t in enumerate(dims))
            if full
            else (Term(),) * call.operands[2].ndim
        )
        linear = (frozenset({0, 2}),) if full and is_linear else ()
    how = _combined(call, "n") if len(call.operands) > 2 and call.operands[1].ndim else {}
    fixed = frozenset({f"d{dim}"} if how else {f"d{dim}", "n"})
    return Rule(tuple(operands), (dims,), sizes, fixed, linear=linear, **how)


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
    "aten::masked_scatter": Entry(masked_scatter_rule),
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
