"""Taking parts of a dim and laying dims end to end: slice, select, split, chunk, unbind, cat, stack, pad, flip."""

from typing import Any

import torch

from shardwright.layout import Shard, Size, cut_of
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten


def _plain(ndim: int) -> Dims:
    return tuple(Term((f"d{i}",)) for i in range(ndim))


def _with(dims: Dims, dim: int, term: Term) -> Dims:
    return (*dims[:dim], term, *dims[dim + 1 :])


def split_rule(call: Call) -> Rule:
    """``split``, ``chunk``, ``tensor_split`` …: the dim is its parts laid end to end, each cut by itself."""
    shape = call.operands[0].shape
    dim = int(call.arguments.get("dim", 0)) % len(shape)
    parts = [result.shape[dim] for result in call.results if result is not None]
    names = tuple(f"p{i}" for i in range(len(parts)))
    dims = _plain(len(shape))
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(shape) if i != dim}
    sizes.update(zip(names, parts, strict=True))
    return Rule(
        operands=(_with(dims, dim, Term(names, is_sum=True)),),
        results=tuple(_with(dims, dim, Term((name,))) for name in names),
        sizes=sizes,
        joint=(names,),
        linear=(frozenset({0}),),
        moves=True,
        localize=local_split,
    )


def local_split(local: Local) -> Any:
    """Split at this rank's share of every part."""
    shape = local.call.operands[0].shape
    dim = int(local.call.arguments.get("dim", 0)) % len(shape)
    layout = local.strategy.operands[0]
    if not isinstance(layout, Shard) or layout.dim != dim:
        return local.run_call()
    sizes = [cut_of(r).local_size(local.rank) for r in local.strategy.results if isinstance(r, Shard)]
    return local.run(aten.split_with_sizes.default, local.arguments["self"], sizes, dim)


def unbind_rule(call: Call) -> Rule:
    """``unbind``: the dim falls apart into results and may not be cut."""
    shape = call.operands[0].shape
    dim = int(call["dim"]) % len(shape)
    dims = _plain(len(shape))
    rest = dims[:dim] + dims[dim + 1 :]
    sizes = {f"d{i}": s for i, s in enumerate(shape)}
    return Rule(
        (dims,), (rest,) * len(call.results), sizes, frozenset({f"d{dim}"}), linear=(frozenset({0}),), moves=True
    )


def slice_rule(call: Call) -> Rule:
    """``slice`` and ``narrow``: the dim is before + kept + after; what is left out may lie anywhere."""
    shape, target = call.operands[0].shape, call.result.shape
    dim = int(call.arguments.get("dim", 0)) % len(shape)
    dims = _plain(len(shape))
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(shape)}
    span = _span(call, shape[dim], target[dim])
    if span is None:
        sizes["kept"] = target[dim]
        target_dims = _with(dims, dim, Term(("kept",)))
        fixed = frozenset({"kept", f"d{dim}"})
        return Rule((dims,), (target_dims,), sizes, fixed, linear=(frozenset({0}),), moves=True)
    if span == (0, shape[dim]):
        return Rule((dims,), (dims,), sizes, linear=(frozenset({0}),), moves=True)
    start, stop = span
    del sizes[f"d{dim}"]
    whole = shape[dim]
    assert isinstance(whole, int), "a span is known only for a dim of known size"
    sizes.update(before=start, kept=stop - start, after=whole - stop)
    names = tuple(name for name in ("before", "kept", "after") if sizes[name] != 0)
    return Rule(
        operands=(_with(dims, dim, Term(names, is_sum=True)),),
        results=(_with(dims, dim, Term(("kept",))),),
        sizes={name: size for name, size in sizes.items() if name in names or name.startswith("d")},
        joint=(names,),
        dropped=frozenset({"before", "after"}),
        linear=(frozenset({0}),),
        moves=True,
        localize=local_slice,
    )


def _span(call: Call, size: Size, kept: Size) -> tuple[int, Any] | None:
    """The half-open range a slice keeps; None when it is not a known contiguous range."""
    start = call.arguments.get("start")
    start = 0 if start is None else start
    if call.arguments.get("step", 1) != 1:
        return None
    if kept == size and isinstance(start, int) and start == 0:
        return 0, size
    if not isinstance(size, int) or not isinstance(kept, int) or not isinstance(start, int):
        return None
    start = min(max(start + size if start < 0 else start, 0), size)
    return start, start + kept


def local_slice(local: Local) -> Any:
    """The slice at this rank's positions of the global range."""
    source = local.arguments[next(iter(local.arguments))]
    dim = int(local.call.arguments.get("dim", 0)) % len(local.call.operands[0].shape)
    layout = local.strategy.operands[0]
    span = _span(local.call, local.call.operands[0].shape[dim], local.call.result.shape[dim])
    if not isinstance(layout, Shard) or layout.dim != dim or span is None:
        return local.run_call()
    start, stop = (cut_of(layout).owned_below(local.rank, index) for index in span)
    return local.run(aten.slice.Tensor, source, dim, start, stop)


def select_rule(call: Call) -> Rule:
    """``select``: one index of a dim, which may not be cut."""
    shape = call.operands[0].shape
    dim = int(call["dim"]) % len(shape)
    dims = _plain(len(shape))
    sizes = {f"d{i}": s for i, s in enumerate(shape)}
    rest = dims[:dim] + dims[dim + 1 :]
    return Rule((dims,), (rest,), sizes, frozenset({f"d{dim}"}), linear=(frozenset({0}),), moves=True)


def cat_rule(call: Call) -> Rule:
    """``cat``: the result's dim is the operands' dims laid end to end, cut together; the others are shared."""
    ndim = call.result.ndim
    dim = int(call.arguments.get("dim", 0)) % max(ndim, 1)
    dims = _plain(ndim)
    names = tuple(f"p{i}" for i, t in enumerate(call.operands) if t.ndim == ndim)
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(call.result.shape) if i != dim}
    operands: list[Dims] = []
    for index, tensor in enumerate(call.operands):
        # Old programs pad lists with empty 1-d tensors, which cat ignores.
        is_real = tensor.ndim == ndim
        operands.append(_with(dims, dim, Term((f"p{index}",))) if is_real else (Term(),))
        if is_real:
            sizes[f"p{index}"] = tensor.shape[dim]
    together = frozenset(range(len(operands)))
    return Rule(
        tuple(operands),
        (_with(dims, dim, Term(names, is_sum=True)),),
        sizes,
        joint=(names,),
        linear=(together,),
        moves=True,
    )


def stack_rule(call: Call) -> Rule:
    """``stack``: a new dim, which may not be cut; the others are shared by all operands."""
    ndim = call.operands[0].ndim
    dim = int(call.arguments.get("dim", 0)) % (ndim + 1)
    dims = _plain(ndim)
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(call.operands[0].shape)}
    sizes["n"] = len(call.operands)
    result = (*dims[:dim], Term(("n",)), *dims[dim:])
    together = frozenset(range(len(call.operands)))
    return Rule((dims,) * len(call.operands), (result,), sizes, frozenset({"n"}), linear=(together,), moves=True)


def touched_rule(call: Call, touched: set[int], *, linear: bool = True) -> Rule:
    """Every dim passes but the ``touched`` ones, whose size may change."""
    source, target = call.operands[0].shape, call.result.shape
    sizes: dict[str, Size] = {}
    left, right = [], []
    for dim in range(len(target)):
        names = (f"d{dim}", f"d{dim}") if dim not in touched else (f"own{dim}", f"new{dim}")
        sizes[names[0]], sizes[names[1]] = source[dim], target[dim]
        left.append(Term((names[0],)))
        right.append(Term((names[1],)))
    fixed = frozenset(name for name in sizes if not name.startswith("d"))
    return Rule((tuple(left),), (tuple(right),), sizes, fixed, linear=(frozenset({0}),) if linear else ())


def pad_rule(call: Call) -> Rule | None:
    """``constant_pad_nd`` and ``pad``: padded dims may not be cut; linear when the padding is zero."""
    ndim = call.operands[0].ndim
    pad = call["pad"]
    touched = {ndim - 1 - i // 2 for i, amount in enumerate(pad) if not (isinstance(amount, int) and amount == 0)}
    value = call.arguments.get("value")
    return touched_rule(call, touched, linear=not value and call.arguments.get("mode", "constant") == "constant")


def dims_rule(call: Call) -> Rule:
    """``flip`` and ``roll``: the dims they work along may not be cut."""
    ndim = call.operands[0].ndim
    dims = call["dims"]
    along = range(ndim) if dims is None or (isinstance(dims, (list, tuple)) and not dims) else dims
    along = [along] if isinstance(along, int) else along
    return touched_rule(call, {int(dim) % max(ndim, 1) for dim in along})


def triangle_rule(call: Call) -> Rule:
    """``tril`` and ``triu``: the last two dims may not be cut."""
    ndim = call.operands[0].ndim
    return touched_rule(call, {ndim - 1, ndim - 2})


def diagonal_rule(call: Call) -> Rule:
    """``diagonal``: the two dims it reads may not be cut; the others keep their order."""
    shape = call.operands[0].shape
    first, second = int(call.arguments.get("dim1", 0)) % len(shape), int(call.arguments.get("dim2", 1)) % len(shape)
    dims = _plain(len(shape))
    rest = tuple(term for dim, term in enumerate(dims) if dim not in (first, second))
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(shape)}
    sizes["n"] = call.result.shape[-1]
    fixed = frozenset({f"d{first}", f"d{second}", "n"})
    return Rule((dims,), ((*rest, Term(("n",))),), sizes, fixed, linear=(frozenset({0}),), moves=True)


def unfold_rule(call: Call) -> Rule:
    """``Tensor.unfold``: windows over one dim, which may not be cut."""
    shape = call.operands[0].shape
    dim = int(call["dimension"]) % max(len(shape), 1)
    dims = _plain(len(shape))
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(shape)}
    sizes.update(windows=call.result.shape[dim], width=call.result.shape[-1])
    result = (*_with(dims, dim, Term(("windows",))), Term(("width",)))
    fixed = frozenset({f"d{dim}", "windows", "width"})
    return Rule((dims,), (result,), sizes, fixed, linear=(frozenset({0}),), moves=True)


def scatter_rule(call: Call) -> Rule:
    """``slice_scatter`` and ``select_scatter``: written along one dim, which may not be cut; the rest is shared."""
    shape = call.operands[0].shape
    dim = int(call.arguments.get("dim", 0)) % len(shape)
    dims = _plain(len(shape))
    sizes: dict[str, Size] = {f"d{i}": s for i, s in enumerate(shape)}
    is_select = call.operands[1].ndim < len(shape)
    source = dims[:dim] + dims[dim + 1 :] if is_select else _with(dims, dim, Term(("written",)))
    if not is_select:
        sizes["written"] = call.operands[1].shape[dim]
    fixed = frozenset({f"d{dim}", "written"})
    return Rule((dims, source), (dims,), sizes, fixed, linear=(frozenset({0, 1}),), moves=True)


_SPLIT, _SLICE, _TRIANGLE = Entry(split_rule), Entry(slice_rule), Entry(triangle_rule)

RULES: dict[str, Entry] = {
    "aten::cat": Entry(cat_rule),
    "aten::chunk": _SPLIT,
    "aten::concat": Entry(cat_rule),
    "aten::concatenate": Entry(cat_rule),
    "aten::constant_pad_nd": Entry(pad_rule),
    "aten::diagonal": Entry(diagonal_rule),
    "aten::diagonal_copy": Entry(diagonal_rule),
    "aten::flip": Entry(dims_rule),
    "aten::narrow": _SLICE,
    "aten::narrow_copy": _SLICE,
    "aten::pad": Entry(pad_rule),
    "aten::roll": Entry(dims_rule),
    "aten::select.int": Entry(select_rule),
    "aten::select_copy.int": Entry(select_rule),
    "aten::select_scatter": Entry(scatter_rule),
    "aten::slice.Tensor": _SLICE,
    "aten::slice_copy.Tensor": _SLICE,
    "aten::slice_scatter": Entry(scatter_rule),
    "aten::split.Tensor": _SPLIT,
    "aten::split.sizes": _SPLIT,
    "aten::split_copy.Tensor": _SPLIT,
    "aten::split_with_sizes": _SPLIT,
    "aten::split_with_sizes_copy": _SPLIT,
    "aten::stack": Entry(stack_rule),
    "aten::tensor_split.indices": _SPLIT,
    "aten::tensor_split.sections": _SPLIT,
    "aten::tril": _TRIANGLE,
    "aten::triu": _TRIANGLE,
    "aten::unbind.int": Entry(unbind_rule),
    "aten::unbind_copy.int": Entry(unbind_rule),
    "aten::unfold": Entry(unfold_rule),
    "aten::unfold_copy": Entry(unfold_rule),
    "aten::unsafe_chunk": _SPLIT,
    "aten::unsafe_split.Tensor": _SPLIT,
}
