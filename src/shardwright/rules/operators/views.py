"""Views: the same elements under another shape. Factors are read off the two shapes."""

import math
import operator
from dataclasses import replace
from functools import reduce
from typing import Any

import torch

from shardwright.layout.layout import Shard, cut_of
from shardwright.layout.sizes import as_size, is_integer
from shardwright.rules.local import local_size, local_sizes
from shardwright.rules.operators.dims import dim_of, named_dims
from shardwright.rules.operators.refine import refine
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Local, Rule, Term

aten = torch.ops.aten

_FIRST = (frozenset({0}),)


def view_rule(call: Call) -> Rule:
    """``view``, ``reshape``, ``flatten`` …: the common refinement of the two shapes.

    ``(2, 6, 64) -> (2, 384)`` gives ``b h d -> b (h d)``. Where sizes share no refinement the rest may not be cut.
    ``view_as`` and its like look only at the other tensor's shape, in whatever layout it lies.
    """
    source, target, sizes, fixed = refine(call.operands[0].shape, call.result.shape)
    operands = (source, target)[: len(call.operands)]
    algebra: dict[str, Any] = {"linear": _FIRST, "moves": True, "localize": local_view, "localize_whole": True}
    return Rule(operands, (target,), sizes, frozenset(fixed), **algebra)


def local_view(local: Local) -> Any:
    """The view with its local shape spelled out; a copy where local strides do not allow a view."""
    name = next((n for n in ("size", "shape") if n in local.arguments), None)
    source = local.arguments[next(iter(local.arguments))]
    if name is None or "stride" in local.arguments:
        return local.run(aten.reshape.default, source, _result_sizes(local, source))
    sizes = local_sizes(local, _view_sizes(local, source, name), local.strategy.results[0])
    if local.is_dense(source):
        return local.run_call(**{name: sizes})
    # A piece of a tensor may have strides that the whole had not, so that no view of it has this shape. Fake tensors
    # do not always notice (torch 2.13: a dim of size one between), so the copy is left to reshape.
    return local.run(aten.reshape.default, source, sizes)


def _view_sizes(local: Local, source: Any, name: str) -> list[Any]:
    """The view's sizes; a -1 of symbolic size is written out where the piece is empty, as nothing follows from it."""
    sizes, layout = list(local.arguments[name]), local.strategy.results[0]
    is_empty = isinstance(layout, Shard) and cut_of(layout).fraction(local.rank) == 0
    for dim, (entry, size) in enumerate(zip(sizes, local.call.result.shape, strict=True)):
        if is_empty and isinstance(entry, int) and entry == -1 and not isinstance(size, int):
            sizes[dim] = _size_node(local, source, dim)
    return sizes


def _result_sizes(local: Local, source: Any) -> list[Any]:
    """The local result shape of a view that does not give it: numbers, sizes of the source, at most one -1."""
    layout = local.strategy.results[0]
    sizes: list[Any] = []
    for dim, size in enumerate(local.call.result.shape):
        is_cut = isinstance(layout, Shard) and layout.dim == dim
        sizes.append(cut_of(layout).local_size(local.rank) if is_cut else size)  # type: ignore[arg-type]
    unknown = [dim for dim, size in enumerate(sizes) if not isinstance(size, int)]
    for dim in unknown:
        sizes[dim] = _size_node(local, source, dim) if len(unknown) > 1 else -1
    return sizes


def _size_node(local: Local, source: Any, dim: int) -> Any:
    """A symbolic result size, worked out from the source's."""
    found = _by_factors(local, dim) or _by_size(local, dim)
    if found is None:
        size = local.call.result.shape[dim]
        raise RuntimeError(f"the size {size} of result dim {dim} does not follow from the dims of the operand")
    places, times, parts = found
    size = reduce(
        lambda one, other: local.run(operator.mul, one, other),
        [local.run(aten.sym_size.int, source, place) for place in places],
    )
    size = local.run(operator.mul, size, times) if times > 1 else size
    return local.run(operator.floordiv, size, parts) if parts > 1 else size


def _by_factors(local: Local, dim: int) -> tuple[list[int], int, int] | None:
    """The source's dims of a result dim's factors, cut as that is, and the number to divide their product by."""
    wanted = local.rule.results[0][dim].factors  # type: ignore[index]
    places = [place for place, term in enumerate(local.rule.operands[0]) if set(term.factors) & set(wanted)]
    factors = {name for place in places for name in local.rule.operands[0][place].factors}
    others = sorted(factors - set(wanted))
    known, cut = [local.rule.sizes[name] for name in others], dict(local.strategy.cuts)
    if not set(wanted) <= factors or not all(isinstance(size, int) for size in known) or cut.keys() & set(others):
        return None
    return places, 1, math.prod(known)


def _by_size(local: Local, dim: int) -> tuple[list[int], int, int] | None:
    """Dims that the source has whole, and the number to multiply their product by: of views that share no factors."""
    layouts = (local.strategy.operands[0], local.strategy.results[0])
    of_source, of_result = (layout.dim if isinstance(layout, Shard) else None for layout in layouts)
    rest, places = local.call.result.shape[dim], []
    for place, size in enumerate(local.call.operands[0].shape):
        if place != of_source and not isinstance(size, int) and is_integer(rest / size):
            rest, places = as_size(rest / size), [*places, place]
    return (places, rest, 1) if places and isinstance(rest, int) and dim != of_result else None


def permute_rule(call: Call) -> Rule:
    """``permute``, ``transpose``, ``movedim`` …: the same dims in another order, found by asking the operator."""
    with torch.no_grad():
        probe = torch.empty(tuple(range(2, 2 + call.operands[0].ndim)), device="meta")
        arguments = {**call.arguments, next(iter(call.arguments)): probe}
        order = [size - 2 for size in call.op(**arguments).shape]
    dims, sizes = named_dims(call.operands[0].shape)
    return Rule((dims,), (tuple(dims[dim] for dim in order),), sizes, linear=_FIRST, moves=True)


def squeeze_rule(call: Call) -> Rule:
    """``squeeze`` and ``unsqueeze``: dims of size 1 come and go."""
    source, target, sizes, fixed = refine(call.operands[0].shape, call.result.shape)
    drops = call.operands[0].ndim > call.result.ndim or "unsqueeze" not in call.schema_name
    localize = local_squeeze if drops and "squeeze" in call.schema_name else None
    return Rule((source,), (target,), sizes, frozenset(fixed), linear=_FIRST, moves=True, localize=localize)


def local_squeeze(local: Local) -> Any:
    """Only the dims of global size 1: a local size may be 1 by chance."""
    shape = local.call.operands[0].shape
    named = local.call.arguments.get("dim", range(len(shape)))
    named = {int(dim) % max(len(shape), 1) for dim in ([named] if isinstance(named, int) else named)}
    ones = [dim for dim, size in enumerate(shape) if size == 1 and dim in named]
    if not ones:
        return local.run(aten.alias.default, local.arguments["self"])
    return local.run(aten.squeeze.dims, local.arguments["self"], ones)


def unflatten_rule(call: Call) -> Rule:
    """``unflatten``: a view that gives only the new dims."""
    return replace(view_rule(call), localize=local_unflatten)


def local_unflatten(local: Local) -> Any:
    """The new dims with the cut one made local, and no -1 where nothing follows from it."""
    layout, dim = local.strategy.results[0], dim_of(local.call, local.call.operands[0].ndim)
    sizes = list(local.arguments["sizes"])
    shape = local.call.result.shape[dim : dim + len(sizes)]
    sizes = [
        size if isinstance(size, int) and _is_minus_one(entry) else entry
        for entry, size in zip(sizes, shape, strict=True)
    ]
    if (
        isinstance(layout, Shard)
        and dim <= layout.dim < dim + len(sizes)
        and not _is_minus_one(sizes[layout.dim - dim])
    ):
        sizes[layout.dim - dim] = local_size(local, sizes[layout.dim - dim], cut_of(layout))
    return local.run(aten.unflatten.int, local.arguments["self"], dim, sizes)


def _is_minus_one(entry: Any) -> bool:
    return isinstance(entry, int) and entry == -1


def dtype_view_rule(call: Call) -> Rule:
    """``view`` as another dtype: where that is wider or narrower, the last dim may not be cut."""
    dims, sizes = named_dims(call.operands[0].shape)
    if not dims or call.operands[0].dtype.itemsize == call.result.dtype.itemsize:
        return Rule((dims,), (dims,), sizes)
    sizes["bytes"] = call.result.shape[-1]
    last = f"d{len(dims) - 1}"
    return Rule((dims,), ((*dims[:-1], Term(("bytes",))),), sizes, frozenset({last, "bytes"}))


_VIEW, _PERMUTE, _SQUEEZE = Entry(view_rule), Entry(permute_rule), Entry(squeeze_rule)

RULES: dict[str, Entry] = {
    "aten::_reshape_alias": _VIEW,
    "aten::_reshape_alias_copy": _VIEW,
    "aten::_reshape_copy": _VIEW,
    "aten::_unsafe_view": _VIEW,
    "aten::adjoint": _PERMUTE,
    "aten::atleast_1d": _SQUEEZE,
    "aten::atleast_2d": _SQUEEZE,
    "aten::atleast_3d": _SQUEEZE,
    "aten::flatten.using_ints": _VIEW,
    "aten::mH": _PERMUTE,
    "aten::mT": _PERMUTE,
    "aten::matrix_H": _PERMUTE,
    "aten::movedim.int": _PERMUTE,
    "aten::movedim.intlist": _PERMUTE,
    "aten::numpy_T": _PERMUTE,
    "aten::permute": _PERMUTE,
    "aten::permute_copy": _PERMUTE,
    "aten::ravel": _VIEW,
    "aten::reshape": _VIEW,
    "aten::reshape_as": _VIEW,
    "aten::squeeze": _SQUEEZE,
    "aten::squeeze_copy": _SQUEEZE,
    "aten::t": _PERMUTE,
    "aten::t_copy": _PERMUTE,
    "aten::transpose.int": _PERMUTE,
    "aten::transpose_copy.int": _PERMUTE,
    "aten::unflatten.int": Entry(unflatten_rule),
    "aten::unsqueeze": _SQUEEZE,
    "aten::unsqueeze_copy": _SQUEEZE,
    "aten::view": _VIEW,
    "aten::view.dtype": Entry(dtype_view_rule),
    "aten::view_as": _VIEW,
    "aten::view_as_complex": einsum("... two! -> ...", linear=((0,),)),
    "aten::view_as_complex_copy": einsum("... two! -> ...", linear=((0,),)),
    "aten::view_as_real": einsum("... -> ... two!", linear=((0,),)),
    "aten::view_as_real_copy": einsum("... -> ... two!", linear=((0,),)),
    "aten::view_copy": _VIEW,
    "aten::view_copy.dtype": Entry(dtype_view_rule),
}

UNSUPPORTED: dict[str, str] = {
    "aten::as_strided": "it addresses memory, which is laid out differently on every rank",
    "aten::as_strided_copy": "it addresses memory, which is laid out differently on every rank",
    "aten::as_strided_scatter": "it addresses memory, which is laid out differently on every rank",
}
