"""One rank's side of a call: the operator on local tensors, size arguments worked out from the cut factors."""

import math
import operator
from typing import Any

import torch

from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout, Owned, Partial, Shard, cut_of, local_shape
from shardwright.layout.reduce import REDUCTIONS
from shardwright.layout.sizes import as_size
from shardwright.program.torch_private import has_schema, schema_of
from shardwright.rules.call import leaves
from shardwright.rules.rule import Dims, Local, Rule, TensorMeta


def localize(local: Local) -> Any:
    """Run or emit one rank's side of a call under its strategy."""
    rule = local.rule
    if _is_empty(local) and not rule.draws:
        return fill_results(local)
    if rule.localize is not None and (local.strategy.cuts or rule.localize_whole or rule.is_written_out):
        return rule.localize(local)
    if rule.size_arg is None:
        return local.run_call()
    sizes = local_sizes(local, local.arguments[rule.size_arg], local.strategy.results[0])
    return local.run_call(**{rule.size_arg: sizes})


def local_sizes(local: Local, sizes: Any, layout: Layout) -> Any:
    """A shape argument with the entry of the cut dim made local; ``-1`` stays, as it follows from the rest.

    On a rank whose piece may be empty ``-1`` is written out, since nothing follows from no elements.
    """
    if not isinstance(layout, Shard):
        return sizes
    entries = list(sizes)
    cut = cut_of(layout)
    shape = local.call.result.shape
    if cut.is_concrete and cut.local_size(local.rank) == 0:
        entries = [size if isinstance(size, int) else entry for entry, size in zip(entries, shape, strict=True)]
    if not (isinstance(entries[layout.dim], int) and entries[layout.dim] == -1):
        entries[layout.dim] = local_size(local, entries[layout.dim], cut)
    return entries


def local_size(local: Local, size: Any, cut: Cut) -> Any:
    """This rank's share of a size, given as an int or as the value of a symbolic int."""
    if isinstance(size, int):
        return cut.local_size(local.rank)
    return local.run(operator.floordiv, local.run(operator.mul, size, cut.owned(local.rank)), cut.period)


def own_piece(local: Local, value: Any, dim: int, cut: Cut) -> Any:
    """This rank's piece of a value that is there whole: for what a call reads both whole and in pieces."""
    spans = local.ranges(cut) or [(0, 0)]
    pieces = [local.run(torch.ops.aten.slice.Tensor, value, dim, start, stop) for start, stop in spans]
    return pieces[0] if len(pieces) == 1 else local.run(torch.ops.aten.cat.default, pieces, dim)


def dense(local: Local, value: Any) -> Any:
    """A local tensor made contiguous, for kernels that take no other."""
    if local.is_dense(value):
        return value
    return local.run(torch.ops.aten.clone.default, value, memory_format=torch.contiguous_format)


def run_dense(local: Local) -> Any:
    """The call on operands made contiguous, for kernels that read memory as if they were."""
    names = [name for name, value in local.call.arguments.items() if isinstance(value, TensorMeta)]
    return local.run_call(**{name: dense(local, local.arguments[name]) for name in names})


def fill_results(local: Local) -> Any:
    """What a rank without a share gives: empty pieces, and neutral elements for what is reduced.

    Many operators refuse empty tensors, and there is nothing to compute.
    """
    operands = [
        value
        for name, argument in local.arguments.items()
        for value, meta in zip(leaves(argument), leaves(local.call.arguments[name]), strict=True)
        if isinstance(meta, TensorMeta)
    ]
    found = []
    for meta, layout, sizes in zip(local.call.results, local.strategy.results, _filled_sizes(local), strict=True):
        if meta is None:
            found.append(None)
            continue
        shape = [
            local.run(torch.ops.aten.sym_size.int, operands[size[0]], size[1]) if isinstance(size, tuple) else size
            for size in sizes
        ]
        number = number_in(REDUCTIONS[layout.op].neutral if isinstance(layout, Partial) else 0.0, meta.dtype)
        found.append(local.run(torch.ops.aten.new_full.default, operands[0], shape, number, dtype=meta.dtype))
    return found if len(found) > 1 else found[0]


def _filled_sizes(local: Local) -> list[list[int | tuple[int, int] | None]]:
    """Each result's local sizes: numbers, or the operand and its dim to read one off; None where there is neither."""
    found = []
    for meta, dims, layout in zip(local.call.results, local.rule.results, local.strategy.results, strict=True):
        shape = () if meta is None else map(as_size, local_shape(meta.shape, layout, local.rank))
        sizes = enumerate(shape)
        found.append([size if isinstance(size, int) else _place_of(local.rule, dims, dim) for dim, size in sizes])
    return found


def _place_of(rule: Rule, dims: Dims | None, dim: int) -> tuple[int, int] | None:
    """The first operand, and its dim, with the factors of a result's dim, so that it is cut alike; None without one.

    A dim without factors may have any size.
    """
    if not dims or not dims[dim].factors:
        return None
    return next(((number, own.index(dims[dim])) for number, own in enumerate(rule.operands) if dims[dim] in own), None)


def number_in(value: float, dtype: torch.dtype) -> float:
    """A number as one of a dtype: an infinity as the least or most that it holds."""
    if dtype.is_floating_point or dtype.is_complex:
        return value
    if dtype == torch.bool:
        return value > 0
    if not math.isinf(value):
        return int(value)
    return torch.iinfo(dtype).min if value < 0 else torch.iinfo(dtype).max


class Eager:
    """A `Local` that runs operators at once."""

    def run(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run ``op``."""
        return op(*args, **kwargs)


def _is_empty(local: Local) -> bool:
    """Whether this rank has no share of the call, every result follows from that, and all shapes are numbers or those
    of operands.
    """
    cuts = [cut for _, cut in local.strategy.cuts]
    if any(isinstance(layout, Partial) for layout in local.strategy.operands):
        return False
    if not cuts or any(not cut.is_concrete or cut.local_size(local.rank) for cut in cuts):
        return False
    for meta, layout in zip(local.call.results, local.strategy.results, strict=True):
        if meta is None and not _gives_tensors(local.call.op):
            return False
        if meta is not None and not (isinstance(layout, (Shard, Partial, Owned)) or 0 in meta.shape):
            return False
    return bool(local.call.operands) and all(None not in sizes for sizes in _filled_sizes(local))


def _gives_tensors(op: Any) -> bool:
    """Whether an operator gives tensors alone, so that a result that is none is a tensor left out, and no number."""
    returns = schema_of(op).returns if has_schema(op) else ()
    return bool(returns) and all("Tensor" in str(one.type) for one in returns)
