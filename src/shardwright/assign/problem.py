"""The solver's problem and its solution: sites with their strategies, values that flow between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shardwright.assign.bonds import Bonds
from shardwright.assign.cost import CostModel
from shardwright.assign.effort import Budget
from shardwright.errors import AssignmentError
from shardwright.layout.layout import Layout
from shardwright.rules.rule import Strategy

STORE_US = 1e-8
"""The price of a byte of stored weight, in microseconds: an unpinned tensor is stored cut where that costs nothing."""


@dataclass
class SiteChoices:
    """One site for the solver: its strategies with their costs, how many steps it stands for.

    ``is_summed``: whether what reads it is an all-reduce along another axis, so that reducing it there is best done
    right before: neighbours become one. ``inside_us``: of the collectives inside each strategy; absent: there are none.
    ``bound_factor``: how many times its bytes count towards what a rank may hold. ``byte_us``: what a byte of it on a
    rank is worth beside time.
    """

    members: int
    strategies: list[Strategy]
    work_us: list[float]
    weight_bytes: list[int]
    name: str = ""
    is_summed: bool = False
    inside_us: Sequence[float] = ()
    bound_factor: float = 1.0
    byte_us: float = STORE_US


@dataclass
class ValueFlow:
    """One group of equal values: who makes it, who reads it, and what moving it costs."""

    members: int
    producer: int
    result: int
    readers: tuple[tuple[int, int], ...]
    num_bytes: int
    is_bool: bool = False
    is_weight: bool = False
    part: Layout | None = None
    """The layout of a part of a batch."""
    stays: frozenset[tuple[int, int]] = frozenset()
    """The readers that take the part as it is."""


@dataclass
class Problem:
    """Everything the solver needs. ``ties``: pairs of sites that hold one layout."""

    num_ranks: int
    sites: list[SiteChoices]
    values: list[ValueFlow]
    ties: list[tuple[int, int]]
    cost: CostModel
    auto: bool = False
    slack: float = 0.1
    budget: Budget = field(default_factory=Budget)


@dataclass
class Solution:
    """The strategy number of each site, the cost in microseconds, and how much of it may be too much (0 when optimal).

    Under a plan that share is of the communication, where the search for the least of it ended early.
    ``objective``: what was minimised first: under a plan the communication, else all time, with small preferences.
    """

    chosen: list[int]
    communication_us: float
    work_us: float
    objective: float
    gap: float = 0.0


def byte_limit(ranges: Iterable[tuple[float, float]], slack: float) -> float:
    """The weight bytes a rank may hold: the least, and the slack of those of weights that can be cut.

    ``ranges``: the least and the most bytes of every weight on a rank. What is whole on every rank whatever is chosen
    must not make room for small weights to stay whole as well.
    """
    known = list(ranges)
    return sum(least for least, _ in known) + slack * sum(least for least, most in known if least < most)


def byte_ranges(problem: Problem) -> list[tuple[float, float]]:
    """The least and the most bytes of every site that count on a rank: under the layouts that tied ones have in common.

    No reader stands in the way, since any layout of a weight can be gathered for it; so this needs no solver.
    """
    common = common_layouts(problem)
    return [_byte_range(site, common.get(index)) for index, site in enumerate(problem.sites)]


def _byte_range(site: SiteChoices, common: frozenset[Layout] | None) -> tuple[float, float]:
    held = [
        site.members * site.bound_factor * num_bytes
        for strategy, num_bytes in zip(site.strategies, site.weight_bytes, strict=True)
        if common is None or _layout(strategy) in common
    ]
    return min(held, default=0), max(held, default=0)


def common_layouts(problem: Problem) -> dict[int, frozenset[Layout]]:
    """Site → the layouts that all of the sites have which it is tied to; those that are tied to none are absent."""
    bonds: Bonds[int] = Bonds()
    for tied in problem.ties:
        bonds.join(tied)
    found = {}
    for group in bonds.groups():
        common = frozenset.intersection(*(frozenset(map(_layout, problem.sites[i].strategies)) for i in group))
        if not common:
            raise AssignmentError("tied tensors have no layout in common\n  try: pin them to one layout")
        found.update(dict.fromkeys(group, common))
    return found


def _layout(strategy: Strategy) -> Layout:
    """The layout that a placeholder gives or an output takes."""
    return (strategy.results or strategy.operands)[0]
