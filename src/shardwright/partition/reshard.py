"""Changes of layout. The only place that creates collectives."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from shardwright import collectives
from shardwright.assign.cost import exchanges
from shardwright.layout import Layout, Partial, Replicate, Shard, cut_of
from shardwright.partition.emit import Emitter

aten = torch.ops.aten


def reshard(
    emit: Emitter, x: fx.Node, source: Layout, target: Layout, whole: torch.Tensor, axis: str, rank: int
) -> fx.Node:
    """``x``, held in layout ``source``, brought to ``target``. ``whole``: the fake tensor of the global value.

    Emits at most one collective, except from one uneven shard to another, which gathers and cuts.
    """
    if isinstance(target, Partial):
        assert isinstance(source, Replicate) and target.op == "sum", f"no reshard leads from {source} to {target}"
        return spread(emit, x, rank)
    if isinstance(source, Replicate):
        assert isinstance(target, Shard), f"no reshard leads from {source} to {target}"
        return cut_locally(emit, x, target, rank)
    if isinstance(source, Partial):
        if isinstance(target, Replicate):
            return _write(emit, collectives.all_reduce, (x, source.op, axis), tuple(x.meta["val"].shape), whole)
        shape = _local(whole, target, rank)
        return _write(
            emit, collectives.reduce_scatter, (x, source.op, target.dim, target.cut, axis, rank), shape, whole
        )
    if isinstance(target, Replicate):
        args = (x, source.dim, source.cut, axis, rank)
        return _write(emit, collectives.all_gather, args, tuple(whole.shape), whole)
    if exchanges(source, target):
        args = (x, source.dim, source.cut, target.dim, target.cut, axis, rank)
        return _write(emit, collectives.all_to_all, args, _local(whole, target, rank), whole)
    gathered = reshard(emit, x, source, Replicate(), whole, axis, rank)
    return cut_locally(emit, gathered, target, rank)


def cut_locally(emit: Emitter, x: fx.Node, target: Shard, rank: int) -> fx.Node:
    """This rank's piece of a value that is there whole: a slice, or several joined."""
    cut = cut_of(target)
    if not cut.is_concrete:
        size = emit.sizes(x)[target.dim]
        chunk = emit.call(operator.floordiv, size, cut.num_ranks)
        start = emit.call(operator.mul, chunk, rank)
        return emit.call(aten.slice.Tensor, x, target.dim, start, emit.call(operator.add, start, chunk))
    spans = cut.intervals(rank) or [(0, 0)]
    pieces = [emit.call(aten.slice.Tensor, x, target.dim, start, stop) for start, stop in spans]
    return pieces[0] if len(pieces) == 1 else emit.call(aten.cat.default, pieces, target.dim)


def spread(emit: Emitter, x: fx.Node, rank: int) -> fx.Node:
    """A value that is there whole as a partial sum: the first rank keeps it, the others hold zeros.

    One call on every rank, so that an axis cut next finds graphs of the same steps.
    """
    return emit.call(aten.alias.default if rank == 0 else aten.zeros_like.default, x)


def _local(whole: torch.Tensor, target: Layout, rank: int) -> tuple[Any, ...]:
    assert isinstance(target, Shard), f"{target} is no shard"
    cut = cut_of(target)
    size = cut.local_size(rank) if cut.is_concrete else whole.shape[target.dim] // cut.num_ranks
    return (*whole.shape[: target.dim], size, *whole.shape[target.dim + 1 :])


def _write(emit: Emitter, op: Any, args: Sequence[Any], shape: Sequence[Any], whole: torch.Tensor) -> fx.Node:
    return emit.write(op, args, {}, emit.fake(shape, whole.dtype, whole.device))
