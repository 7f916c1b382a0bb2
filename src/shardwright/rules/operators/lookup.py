"""Looking up global indices in a dim that is cut: where they lie on this rank, and which lie elsewhere.

Every rank looks up what it holds and gives zeros for the rest, so the ranks' results add up: Megatron-LM's
vocabulary-parallel embedding (Shoeybi et al., 2019), for any gather along one dim.
"""

from typing import Any

import torch

from shardwright.layout.cut import Cut
from shardwright.rules.rule import Local

aten = torch.ops.aten


def look_up(local: Local, cut: Cut, dim: int, source: Any, indices: Any) -> tuple[Any, Any, Any]:
    """(source, indices, outside): what to look up on this rank, and which indices lie elsewhere.

    ``source``: this rank's piece, cut along ``dim``; on a rank without any, one zero stands in, and nothing is outside.
    """
    if cut.local_size(local.rank) == 0:
        pad = [0, 0] * (source_ndim(local) - 1 - dim) + [0, 1]
        zeros = local.run(aten.zeros_like.default, indices)
        return local.run(aten.constant_pad_nd.default, source, pad), zeros, None
    ranges = [cut.intervals(rank) for rank in range(cut.num_ranks)]
    if max(map(len, ranges)) > 1:
        return source, *_in_several_ranges(local, ranges, indices)
    starts = [found[0][0] if found else 0 for found in ranges]
    shifted = local.run(aten.sub.Tensor, indices, local.rank_value(starts, torch.int64))
    last = local.rank_value([max(int(size) - 1, 0) for size in cut.local_sizes()], torch.int64)
    zero = local.rank_value([0] * cut.num_ranks, torch.int64)
    clamped = local.run(aten.clamp.Tensor, shifted, zero, last)
    return source, clamped, local.run(aten.ne.Tensor, shifted, clamped)


def source_ndim(local: Local) -> int:
    """The number of dims of what is looked up, which is the first operand."""
    return local.call.operands[0].ndim


def _in_several_ranges(local: Local, ranges: list[list[tuple[int, int]]], indices: Any) -> tuple[Any, Any]:
    """The same where ranks own several ranges; the code is the same on all, ranks with fewer having empty ones."""
    count = max(map(len, ranges))
    padded = [[*found, *[(0, 0)] * (count - len(found))] for found in ranges]
    place = local.run(aten.zeros_like.default, indices)
    outside = local.run(aten.ones_like.default, indices, dtype=torch.bool)
    for i in range(count):
        start = local.rank_value([found[i][0] for found in padded], torch.int64)
        stop = local.rank_value([found[i][1] for found in padded], torch.int64)
        before = [sum(high - low for low, high in found[:i]) for found in padded]
        low, high = local.run(aten.ge.Tensor, indices, start), local.run(aten.lt.Tensor, indices, stop)
        inside = local.run(aten.logical_and.default, low, high)
        shifted = local.run(aten.sub.Tensor, indices, start)
        here = local.run(aten.add.Tensor, shifted, local.rank_value(before, torch.int64))
        place = local.run(aten.where.self, inside, here, place)
        outside = local.run(aten.logical_and.default, outside, local.run(aten.logical_not.default, inside))
    return place, outside


def without_others(local: Local, values: Any, outside: Any, *, after: int = 0) -> Any:
    """The looked-up values, zero where the index lies elsewhere; ``after``: dims that follow the indices'."""
    if outside is None:
        return values
    for _ in range(after):
        outside = local.run(aten.unsqueeze.default, outside, -1)
    # Of any dtype: masked_fill lacks unsigned integers and float8. False is a zero that promotes nothing.
    return local.run(aten.where.ScalarSelf, outside, False, values)
