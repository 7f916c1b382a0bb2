"""The bound on the weight bytes of a rank: what every weight takes at least, and slack for those that can be cut."""

import pytest

from shardwright.assign.cost import CostModel
from shardwright.assign.problem import Problem, SiteChoices, byte_limit, byte_ranges
from shardwright.errors import AssignmentError
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Shard
from shardwright.rules.rule import Strategy

CUT = Shard(0, Cut.even(8, 2))


def weight(members, **held):
    layouts = {"whole": REPLICATE, "cut": CUT}
    strategies = [Strategy((), (), (layouts[name],)) for name in held]
    return SiteChoices(members, strategies, [0.0] * len(held), list(held.values()))


def limit(*sites, ties=(), slack=0.1):
    return byte_limit(byte_ranges(Problem(2, list(sites), [], list(ties), CostModel(), auto=True)), slack)


def test_slack_is_a_share_of_what_can_be_cut():
    assert limit(weight(1, whole=100, cut=50)) == pytest.approx(55)
    assert limit(weight(1, whole=1000), weight(1, whole=100, cut=50)) == pytest.approx(1055)


def test_a_site_counts_for_all_its_members():
    assert limit(weight(3, whole=100, cut=50), slack=0) == 150


def test_tied_weights_take_the_least_of_a_layout_that_both_have():
    ties = [(1, 0)]
    assert limit(weight(1, whole=100, cut=50), weight(1, whole=0, cut=0), ties=ties, slack=0) == 50
    assert limit(weight(1, whole=100, cut=50), weight(1, whole=0), ties=ties, slack=0) == 100


def test_tied_weights_without_a_common_layout_are_an_error():
    with pytest.raises(AssignmentError, match="no layout in common"):
        limit(weight(1, whole=100), weight(1, cut=50), ties=[(1, 0)])
