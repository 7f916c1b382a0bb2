"""Changes of layout. The only place that creates collectives."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from shardwright.assign.cost import exchanges
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout, Owned, Partial, Replicate, Shard, cut_of, local_shape
from shardwright.partition.emit import Emitter
from shardwright.partition.periods import join_period, over, period_dim, period_of, split_period
from shardwright.partition.stand_in import stand_in
from shardwright.program import collectives
from shardwright.program.nodes import RANGE

aten = torch.ops.aten


def redistribute(
    emit: Emitter, x: fx.Node, source: Layout, target: Layout, whole: torch.Tensor, axis: str, rank: int
) -> fx.Node:
    """``x``, held in layout ``source``, brought to ``target``. ``whole``: the fake tensor of the global value.

    Emits at most one collective, except from one uneven shard to another, which gathers and cuts.
    """
    assert not isinstance(source, Owned), f"no collective leads from {source}"
    assert not isinstance(target, Owned), f"no collective leads to {target}"
    if 0 in [size for size in whole.shape if isinstance(size, int)]:
        # Of nothing nothing is sent.
        return stand_in(emit, x, source, target, whole, rank)
    if isinstance(target, Partial):
        assert isinstance(source, Replicate) and target.op == "sum", f"no collective leads from {source} to {target}"
        return spread(emit, x, rank)
    if isinstance(source, Replicate):
        assert isinstance(target, Shard), f"no collective leads from {source} to {target}"
        return cut_locally(emit, x, target, axis, rank)
    if isinstance(source, Partial):
        if isinstance(target, Replicate):
            return _write(emit, collectives.all_reduce, (x, source.op, axis), tuple(x.meta["val"].shape), whole)
        shape = piece_sizes(whole, target, rank)
        return _write(
            emit, collectives.reduce_scatter, (x, source.op, target.dim, target.cut, axis, rank), shape, whole
        )
    if isinstance(target, Replicate):
        args = (x, source.dim, source.cut, axis, rank)
        return _write(emit, collectives.all_gather, args, tuple(whole.shape), whole)
    if exchanges(source, target):
        args = (x, source.dim, source.cut, target.dim, target.cut, axis, rank)
        return _write(emit, collectives.all_to_all, args, piece_sizes(whole, target, rank), whole)
    gathered = redistribute(emit, x, source, Replicate(), whole, axis, rank)
    return cut_locally(emit, gathered, target, axis, rank)


def cut_locally(emit: Emitter, x: fx.Node, target: Shard, axis: str, rank: int) -> fx.Node:
    """This rank's piece of a value that is there whole: a slice, or several joined."""
    cut, dim = cut_of(target), target.dim
    if cut.is_concrete:
        return _slices(emit, x, dim, cut.intervals(rank), (axis, cut))
    emit.is_of_rank = True
    spans = period_of(cut).intervals(rank)
    if cut.repeat == 1:
        inner = over(emit, emit.sizes(x)[dim], cut.period)
        # The same calls on every rank, as for `spread`.
        return _slices(emit, x, dim, [tuple(emit.call(operator.mul, inner, end) for end in span) for span in spans])
    inside = split_period(emit, x, dim, cut, cut.period)
    return join_period(emit, _slices(emit, inside, period_dim(dim, cut), spans), dim, cut)


def _slices(
    emit: Emitter, x: fx.Node, dim: int, spans: Sequence[tuple[Any, ...]], owned: tuple[str, Cut] | None = None
) -> fx.Node:
    """The ranges of a dim, joined; ``owned``: the axis and the cut whose ranges on this rank they are."""
    pieces = [emit.call(aten.slice.Tensor, x, dim, start, stop) for start, stop in spans or [(0, 0)]]
    if owned is not None:
        for number, piece in enumerate(pieces):
            piece.meta[RANGE] = (*owned, number)
    return pieces[0] if len(pieces) == 1 else emit.call(aten.cat.default, pieces, dim)


def spread(emit: Emitter, x: fx.Node, rank: int) -> fx.Node:
    """A value that is there whole as a partial sum: the first rank keeps it, the others hold zeros.

    One call on every rank, so that an axis cut next finds graphs of the same steps.
    """
    emit.is_of_rank = True
    return emit.call(aten.alias.default if rank == 0 else aten.zeros_like.default, x)


def piece_sizes(whole: torch.Tensor, layout: Layout, rank: int) -> tuple[Any, ...]:
    """The shape of ``rank``'s piece of a value whose fake tensor is ``whole``."""
    if not isinstance(layout, Shard):
        return tuple(whole.shape)
    cut = cut_of(layout)
    if cut.is_concrete:
        return tuple(local_shape(tuple(whole.shape), layout, rank))
    share = whole.shape[layout.dim] * cut.owned(rank) // cut.period
    return (*whole.shape[: layout.dim], share, *whole.shape[layout.dim + 1 :])


def _write(emit: Emitter, op: Any, args: Sequence[Any], shape: Sequence[Any], whole: torch.Tensor) -> fx.Node:
    return emit.write(op, args, {}, emit.fake(shape, whole.dtype, whole.device))
