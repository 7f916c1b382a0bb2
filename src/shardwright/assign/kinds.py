"""Ranks of an axis that hold pieces of the same lengths: their programs have the same shapes."""

from collections.abc import Iterable, Sequence

from shardwright.assign.assignment import Assignment
from shardwright.layout.cut import EVERY, Cut
from shardwright.layout.layout import Shard, cut_of


def ranks_alike(assignments: Iterable[Assignment], num_ranks: int) -> tuple[int, ...]:
    """For each rank of an axis, the first one whose pieces are as long as its own in all of these assignments of it."""
    used: dict[Cut, None] = {}
    for assignment in assignments:
        for strategy in dict.fromkeys(assignment.strategies):
            if strategy is not None:
                layouts = (*strategy.operands, *strategy.results)
                used.update((cut_of(layout), None) for layout in layouts if isinstance(layout, Shard))
                used.update((cut, None) for _, cut in strategy.cuts)
    # The size of a period is known; two of them show what meets where one ends.
    parts = dict.fromkeys((cut.runs if cut.repeat == 1 else cut.runs * 2) for cut in used)
    pieces = zip(*(_lengths(runs, num_ranks) for runs in parts), strict=True) if parts else [()] * num_ranks
    first: dict[tuple[tuple[int, ...], ...], int] = {}
    return tuple(first.setdefault(own, rank) for rank, own in enumerate(pieces))


def _lengths(runs: Sequence[tuple[int, int]], num_ranks: int) -> list[tuple[int, ...]]:
    """The lengths of every rank's ranges, one after the other, in one pass over the runs."""
    found: list[list[int]] = [[] for _ in range(num_ranks)]
    ends = [-1] * num_ranks
    position = 0
    for owner, length in runs:
        for rank in range(num_ranks) if owner == EVERY else (owner,):
            if ends[rank] == position:
                found[rank][-1] += length
            else:
                found[rank].append(length)
            ends[rank] = position + length
        position += length
    return [tuple(lengths) for lengths in found]
