"""Taking parts of a tensor: slice, select, split, unbind; and writing parts back: the scatters of slices.

A slice reads the dim as ``[before+kept+after]``: the parts are cut together, each among all ranks, so that what is kept
is spread evenly too. A split reads it as its pieces laid end to end in the same way: this is how a packed projection
comes apart into q, k and v on every rank.
"""

from collections.abc import Sequence
from typing import Any

import torch

from shardwright.layout.cut import Cut
from shardwright.layout.sizes import Size, same_size, total
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.registry import Builder, Entry
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten

_END = torch.iinfo(torch.int64).max
_FIRST = (frozenset({0}),)


def split_rule(dim: int | None = None, *, flat_dim: int = 0) -> Builder:
    """``split``, ``chunk``, ``tensor_split`` …: the dim is its parts laid end to end, each cut by itself.

    ``dim``: where the operator has no such argument; ``flat_dim``: the same for tensors of one dim.
    """

    def build(call: Call) -> Rule:
        shape = call.operands[0].shape
        along = dim_of(call, len(shape)) if dim is None else dim if len(shape) > 1 else flat_dim
        names = tuple(f"p{i}" for i in range(len(call.results)))
        dims, sizes = named_dims(shape)
        parts = {n: r.shape[along] for n, r in zip(names, call.results, strict=True) if r is not None}
        results = tuple(put(dims, along, Term((name,))) for name in names)
        if not same_size(total(parts.values()), shape[along]):
            # tensor_split at [5, 2] gives overlapping parts.
            fixed = frozenset({f"d{along}", *names})
            return Rule((dims,), results, {**sizes, **parts}, fixed, linear=_FIRST, moves=True)
        del sizes[f"d{along}"]
        sizes.update(parts)
        return Rule(
            operands=(put(dims, along, Term(names, is_sum=True)),),
            results=results,
            sizes=sizes,
            joint=(names,),
            linear=_FIRST,
            moves=True,
            localize=local_split,
        )

    return build


def local_split(local: Local) -> Any:
    """Split at this rank's share of every part."""
    dim, parts = _sum_of(local.rule.operands[0])
    if local.strategy.factor_cut(parts[0]) is None:
        return local.run_call()
    sizes = [_share(local, name) for name in parts]
    return local.run(aten.split_with_sizes.default, local.arguments["self"], sizes, dim)


def _sum_of(dims: Dims) -> tuple[int, tuple[str, ...]]:
    """The dim that is a sum, and its parts."""
    return next((dim, term.factors) for dim, term in enumerate(dims) if term.is_sum)


def _share(local: Local, name: str) -> int:
    """How much of one part this rank holds."""
    cut = local.strategy.factor_cut(name)
    assert isinstance(cut, Cut), f"the parts of a dim are cut together, but {name} is whole"
    return cut.local_size(local.rank)


def unbind_rule(call: Call) -> Rule:
    """``unbind``: the dim falls apart into results and may not be cut."""
    dims, sizes = named_dims(call.operands[0].shape)
    dim = dim_of(call, len(dims))
    results = (put(dims, dim),) * len(call.results)
    return Rule((dims,), results, sizes, frozenset({f"d{dim}"}), linear=_FIRST, moves=True)


def slice_rule(call: Call) -> Rule:
    """``slice`` and ``narrow``: the dim is before + kept + after, or with a step (kept, step)."""
    shape, kept = call.operands[0].shape, call.result.shape
    dim = dim_of(call, len(shape))
    dims, sizes = named_dims(shape)
    if _is_full(call, shape[dim], kept[dim]):
        return Rule((dims,), (dims,), sizes, linear=_FIRST, moves=True, localize=local_full)
    del sizes[f"d{dim}"]
    sizes["kept"] = kept[dim]
    result = put(dims, dim, Term(("kept",)))
    start, step = _start(call, shape[dim]), call.arguments.get("step", 1)
    if start is None or not isinstance(kept[dim], int) or kept[dim] == 0 or not isinstance(step, int):
        return _whole_dim(dims, result, sizes, dim, shape[dim])
    if step != 1:
        # Every step-th index is exact for whole steps only: x[..., ::2] of (pairs, 2).
        if shape[dim] % step or start >= step or kept[dim] * step != shape[dim]:
            return _whole_dim(dims, result, sizes, dim, shape[dim])
        sizes["step"] = step
        source, fixed = put(dims, dim, Term(("kept", "step"))), frozenset({"step"})
        return Rule((source,), (result,), sizes, fixed, linear=_FIRST, moves=True, localize=local_steps)
    parts = _parts(sizes, start, kept[dim], shape[dim])
    return Rule(
        operands=(put(dims, dim, Term(parts, is_sum=True)),),
        results=(result,),
        sizes=sizes,
        joint=(parts,),
        dropped=frozenset({"before", "after"}),
        linear=_FIRST,
        moves=True,
        localize=local_slice,
    )


def _is_full(call: Call, size: Size, kept: Size) -> bool:
    """Whether a slice keeps the dim as it is."""
    start = call.arguments.get("start")
    starts_at_zero = start is None or (isinstance(start, int) and start == 0)
    return starts_at_zero and call.arguments.get("step", 1) == 1 and same_size(size, kept)


def _start(call: Call, size: Size) -> int | None:
    """The first index of a slice counted from the front; None when it is not known."""
    start = call.arguments.get("start")
    start = 0 if start is None else start
    if not isinstance(size, int) or not isinstance(start, int):
        return None
    return min(max(start + size if start < 0 else start, 0), size)


def _whole_dim(dims: Dims, result: Dims, sizes: dict[str, Size], dim: int, size: Size) -> Rule:
    """A slice whose place is not known, or that no cut expresses: the dim may not be cut."""
    sizes[f"d{dim}"] = size
    return Rule((dims,), (result,), sizes, frozenset({f"d{dim}", "kept"}), linear=_FIRST, moves=True)


def _parts(sizes: dict[str, Size], start: int, kept: int, size: int) -> tuple[str, ...]:
    """Note the sizes of what lies before and after what is kept; the names of the parts there are."""
    sizes.update(before=start, after=size - start - kept)
    for name in ("before", "after"):
        if sizes[name] == 0:
            del sizes[name]
    return tuple(name for name in ("before", "kept", "after") if name in sizes)


def local_slice(local: Local) -> Any:
    """The slice at this rank's positions of the global range."""
    dim, parts = _sum_of(local.rule.operands[0])
    if local.strategy.factor_cut("kept") is None:
        return local.run_call()
    start = _share(local, "before") if "before" in parts else 0
    return local.run(aten.slice.Tensor, _source(local), dim, start, start + _share(local, "kept"))


def local_full(local: Local) -> Any:
    """All of a dim, whatever its local size."""
    dim = dim_of(local.call, len(local.rule.operands[0]))
    return local.run(aten.slice.Tensor, _source(local), dim, 0, _END)


def local_steps(local: Local) -> Any:
    """Every step-th index of this rank's whole steps."""
    dims = local.rule.operands[0]
    dim = dim_of(local.call, len(dims))
    start = _start(local.call, local.call.operands[0].shape[dim])
    return local.run(aten.slice.Tensor, _source(local), dim, start, _END, local.call["step"])


def _source(local: Local) -> Any:
    return local.arguments[next(iter(local.arguments))]


def select_rule(call: Call) -> Rule:
    """``select``: one index of a dim, which may not be cut."""
    dims, sizes = named_dims(call.operands[0].shape)
    dim = dim_of(call, len(dims))
    return Rule((dims,), (put(dims, dim),), sizes, frozenset({f"d{dim}"}), linear=_FIRST, moves=True)


def slice_scatter_rule(call: Call) -> Rule:
    """``slice_scatter``: what is written replaces the middle part of before + kept + after."""
    whole, source, how = slice_scatter_dims(call, call.operands[0].shape, call.operands[1].shape)
    return Rule(
        operands=(whole, source),
        results=(whole,),
        linear=(frozenset({0, 1}),),
        moves=True,
        localize=lambda local: local_slice_scatter(local, local.rule.operands[0]),
        **how,
    )


def slice_scatter_dims(call: Call, shape: Sequence[Size], written: Sequence[Size]) -> tuple[Dims, Dims, dict[str, Any]]:
    """The dims of the whole and of what is written into it; and sizes of factors, with those joint or fixed.

    Where the place is not known the dim may not be cut.
    """
    dim = dim_of(call, len(shape))
    dims, sizes = named_dims(shape)
    source = put(dims, dim, Term(("kept",)))
    sizes["kept"] = written[dim]
    start, step = _start(call, shape[dim]), call.arguments.get("step", 1)
    if start is None or step != 1 or not isinstance(written[dim], int) or written[dim] == 0:
        return dims, source, {"sizes": sizes, "fixed": frozenset({f"d{dim}", "kept"})}
    del sizes[f"d{dim}"]
    parts = _parts(sizes, start, written[dim], shape[dim])
    return put(dims, dim, Term(parts, is_sum=True)), source, {"sizes": sizes, "joint": (parts,)}


def local_slice_scatter(local: Local, whole: Dims) -> Any:
    """Write at this rank's positions of the global range; ``whole``: the dims of what is written into."""
    if local.strategy.factor_cut("kept") is None:
        return local.run_call()
    _, parts = _sum_of(whole)
    start = _share(local, "before") if "before" in parts else 0
    return local.run_call(start=start, end=start + _share(local, "kept"))


def part_scatter_rule(*names: str) -> Builder:
    """``select_scatter``, ``diagonal_scatter``: written along these dims, which may not be cut; the rest is shared."""

    def build(call: Call) -> Rule:
        dims, sizes = named_dims(call.operands[0].shape)
        along = {dim_of(call, len(dims), name, default) for default, name in enumerate(names)}
        rest = tuple(term for dim, term in enumerate(dims) if dim not in along)
        fixed = {f"d{dim}" for dim in along}
        if len(rest) < call.operands[1].ndim:
            # A diagonal comes last, after the dims it does not touch.
            sizes["written"] = call.operands[1].shape[-1]
            rest, fixed = (*rest, Term(("written",))), fixed | {"written"}
        return Rule((dims, rest), (dims,), sizes, frozenset(fixed), linear=(frozenset({0, 1}),), moves=True)

    return build


_SPLIT, _SLICE, _SELECT, _UNBIND = Entry(split_rule()), Entry(slice_rule), Entry(select_rule), Entry(unbind_rule)

RULES: dict[str, Entry] = {
    "aten::chunk": _SPLIT,
    "aten::diagonal_scatter": Entry(part_scatter_rule("dim1", "dim2")),
    "aten::dsplit": Entry(split_rule(2)),
    "aten::hsplit": Entry(split_rule(1)),
    "aten::narrow": _SLICE,
    "aten::narrow_copy": _SLICE,
    "aten::select.int": _SELECT,
    "aten::select_copy.int": _SELECT,
    "aten::select_scatter": Entry(part_scatter_rule("dim")),
    "aten::slice.Tensor": _SLICE,
    "aten::slice_copy.Tensor": _SLICE,
    "aten::slice_scatter": Entry(slice_scatter_rule),
    "aten::split.Tensor": _SPLIT,
    "aten::split_copy.Tensor": _SPLIT,
    "aten::split_with_sizes": _SPLIT,
    "aten::split_with_sizes_copy": _SPLIT,
    "aten::tensor_split.indices": _SPLIT,
    "aten::tensor_split.sections": _SPLIT,
    "aten::unbind.int": _UNBIND,
    "aten::unbind_copy.int": _UNBIND,
    "aten::unsafe_chunk": _SPLIT,
    "aten::unsafe_split.Tensor": _SPLIT,
    "aten::unsafe_split_with_sizes": _SPLIT,
    "aten::vsplit": Entry(split_rule(0)),
}

UNSUPPORTED: dict[str, str] = {
    "aten::narrow.Tensor": "it starts where a tensor says, which is not known before the program runs",
    "aten::tensor_split.tensor_indices_or_sections": "it splits where a tensor says, unknown before the program runs",
}
