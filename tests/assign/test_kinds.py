"""Ranks are of a kind where their ranges are as long and as many, so that one rank's slices are the others' too."""

from itertools import permutations, product
from types import SimpleNamespace

import pytest

from shardwright.assign.kinds import ranks_alike
from shardwright.layout.cut import EVERY, Cut
from shardwright.layout.layout import Shard
from shardwright.rules.rule import Strategy


def alike(*cuts):
    """As for an assignment that cuts so."""
    strategy = Strategy(tuple(("i", cut) for cut in cuts), (), tuple(Shard(0, cut) for cut in cuts))
    return ranks_alike([SimpleNamespace(strategies=[None, strategy])], 3)


def lengths(cut, rank):
    return [stop - start for start, stop in cut.intervals(rank)]


@pytest.mark.parametrize("repeat", [1, 2, 3])
@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 2, EVERY), (0, 1, EVERY)], ids=str)
def test_ranks_are_alike_where_their_ranges_are(owners, repeat):
    for order, sizes in product(permutations(owners), product([1, 2], repeat=len(owners))):
        cut = Cut.of(3, list(zip(order, sizes, strict=True)), repeat)
        found = [lengths(cut, rank) for rank in range(3)]
        assert alike(cut) == tuple(map(found.index, found)), cut


def test_ranks_are_alike_in_all_that_is_cut():
    assert alike(Cut.even(6, 3)) == (0, 0, 0)
    assert alike(Cut.even(6, 3), Cut.even(5, 3)) == (0, 0, 2)
    assert alike(Cut.even(5, 3), Cut.even(4, 3)) == (0, 0, 2)
    assert ranks_alike([], 3) == (0, 0, 0)
