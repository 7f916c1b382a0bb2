"""Branch and bound over the linear relaxation, for programs that one row alone keeps from integers.

Without the bound on weight bytes the relaxation of an assignment comes out in integers. With it, it mixes two of them:
one holds less, the other takes less time, and they differ in a few weights. The search settles the weight in which
they differ most, and relaxes again from the basis at hand. Once an answer is held, most variables cost more than what
is left to gain, by their reduced costs; a few nodes down little is left of the program, and HiGHS solves that whole.
Its own search, begun at the root, spends its time on cuts of a program that these few nodes make a hundredth as large.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from shardwright.assign.effort import Budget
from shardwright.assign.highs import GAP, UNUSED, Outcome, relative_gap
from shardwright.assign.relaxation import Relaxation

Held = tuple[float, np.ndarray]
"""The cost of an answer, and its values."""

ITERATIONS = 50
"""As many iterations from a basis at hand take about as long as making that basis ready."""

PRESOLVES = 5
"""Presolving a program once takes about as long as making that many bases ready."""

NEARBY = 10
"""So many nodes are looked around for answers, ..."""

FEW = 4
"""... and all that leave no more variables than this between 0 and 1: an answer is near."""

SMALL = 2000
"""A program of no more variables than this, presolved, HiGHS solves in a moment."""

CLOSER = 0.95
"""What is left of a node is presolved where its gap is below this share of the last gap that left too much."""


@dataclass(frozen=True)
class ChoiceGroups:
    """Groups of variables that follow each other, of each of which exactly one is 1; they come first in the program.

    ``starts``: the first variable of each group, and how many they are in all. ``weights``: by variable, what the row
    counts that ties the groups together.
    """

    starts: np.ndarray
    weights: np.ndarray

    def undecided(self, values: np.ndarray) -> np.ndarray:
        """The variables that are neither 0 nor 1."""
        chosen = values[: self.starts[-1]]
        return np.flatnonzero((chosen > UNUSED) & (chosen < 1 - UNUSED))

    def halves(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group whose used variables differ most in weight, in two parts that both have some of those."""
        groups = np.unique(np.searchsorted(self.starts, self.undecided(values), side="right") - 1)
        used = [self._used(group, values) for group in groups]
        spreads = [np.ptp(self.weights[variables]) for variables in used]
        widest = int(np.argmax(spreads))
        variables, weights = np.arange(*self.starts[groups[widest] : groups[widest] + 2]), self.weights[used[widest]]
        if spreads[widest] > 0:
            is_light = self.weights[variables] <= (weights.min() + weights.max()) / 2
        else:
            is_light = variables == used[widest][np.argmax(values[used[widest]])]
        return variables[is_light], variables[~is_light]

    def _used(self, group: int, values: np.ndarray) -> np.ndarray:
        variables = np.arange(self.starts[group], self.starts[group + 1])
        return variables[values[variables] > UNUSED]


@dataclass(frozen=True, order=True)
class _Node:
    """What is left under some upper bounds: nothing of it costs less than ``bound``; ``values`` are of its relaxation,
    as are ``reduced_costs``. Nodes with the least bound come first, of those the older.
    """

    bound: float
    number: int
    upper_bound: np.ndarray = field(compare=False)
    values: np.ndarray = field(compare=False)
    reduced_costs: np.ndarray = field(compare=False)


@dataclass(eq=False)
class BranchAndBound:
    """A search for what costs less than ``below`` and than what is held.

    ``solve``: the integer program under these upper bounds, and whether there is an answer already, so that it may end
    without another; ``presolved_size``: how many variables HiGHS leaves of it. ``held``: the best answer so far.
    ``num_nodes``: how many were looked at; ``unsolved``: the least bound of one that HiGHS could not relax.
    ``gap_open``: the last gap at which presolving left too much of a program; ``gap_closed``: the largest at which a
    node was small enough.
    """

    relaxation: Relaxation
    choices: ChoiceGroups
    solve: Callable[..., Outcome]
    presolved_size: Callable[[np.ndarray], int]
    budget: Budget
    below: float
    held: Held | None
    num_nodes: int = 0
    unsolved: float = math.inf
    gap_open: float = math.inf
    gap_closed: float = -math.inf

    @property
    def cutoff(self) -> float:
        """What costs this much is no better."""
        return self.below if self.held is None else min(self.below, self.held[0] - GAP * abs(self.held[0]))

    def run(self, root: Outcome, upper_bound: np.ndarray, is_enough: Callable[[float], bool]) -> float:
        """Search until nothing is left, or what was done ``is_enough`` for the gap; the bound of what is left, infinite
        where nothing is. ``root``: the relaxation under ``upper_bound``.
        """
        assert root.values is not None, "a search begins at a relaxation"
        whole = _Node(root.objective, 0, upper_bound, root.values, root.reduced_costs)
        waiting, cutoff = [whole], math.inf
        while waiting:
            node: _Node | None = heappop(waiting)
            # The better child is next: the basis at hand is almost its own.
            while node is not None and node.bound < self.cutoff:
                bound = min(node.bound, self.unsolved, waiting[0].bound if waiting else math.inf)
                if is_enough(1.0 if self.held is None else relative_gap(self.held[0], bound)):
                    return bound
                children = sorted(self._children(node))
                if self.cutoff < cutoff and node is not whole:
                    # With a better answer at hand, little may be left of the whole.
                    cutoff = self.cutoff
                    if self._is_closed(whole, is_known=False):
                        return math.inf
                for other in children[1:]:
                    heappush(waiting, other)
                node = children[0] if children else None
        return self.unsolved

    def _children(self, node: _Node) -> Iterator[_Node]:
        """What is left on either side of a choice; answers that are met are held."""
        self.num_nodes += 1
        if self._is_closed(node, is_known=self.cutoff - node.bound <= self.gap_closed):
            return
        if self.num_nodes <= NEARBY or len(self.choices.undecided(node.values)) <= FEW:
            cutoff = self.cutoff
            self._hold(self.solve(self._used(node.values, node.upper_bound), has_answer=self.held is not None))
            if node.bound >= self.cutoff or (self.cutoff < cutoff and self._is_closed(node, is_known=False)):
                return
        allowed = self._allowed(node)
        for side, left_out in enumerate(self.choices.halves(node.values)):
            narrowed = allowed.copy()
            narrowed[left_out] = 0.0
            outcome = self._relaxed(narrowed)
            if outcome.is_infeasible:
                continue
            if not outcome.is_optimal or outcome.values is None or not outcome.is_consistent:
                self.unsolved = min(self.unsolved, node.bound)
            elif len(self.choices.undecided(outcome.values)):
                number = 2 * self.num_nodes + side
                yield _Node(outcome.objective, number, narrowed, outcome.values, outcome.reduced_costs)
            else:
                self._hold(outcome)

    def _is_closed(self, node: _Node, *, is_known: bool) -> bool:
        """Whether so little is left of a node that it is solved whole, and is. ``is_known``: that it is so little."""
        gap = self.cutoff - node.bound
        if self.held is None or gap > CLOSER * self.gap_open:
            return False
        left = self._allowed(node)
        if self.held[0] <= self.below:
            # With what is held there is an answer, whatever HiGHS says.
            left = np.maximum(left, self.held[1] > UNUSED)
        if not is_known:
            self.budget.spend(PRESOLVES * self.relaxation.num_coefficients)
            if self.presolved_size(left) > SMALL:
                self.gap_open = gap
                return False
        outcome = self.solve(left, has_answer=True)
        self._hold(outcome)
        is_closed = outcome.is_optimal and outcome.is_consistent
        if is_closed:
            self.gap_closed = max(self.gap_closed, gap)
        return is_closed

    def _allowed(self, node: _Node) -> np.ndarray:
        """The upper bounds of a node, without the variables that no better answer has by its reduced costs."""
        return np.where(node.reduced_costs > self.cutoff - node.bound, 0.0, node.upper_bound)

    def _used(self, values: np.ndarray, upper_bound: np.ndarray) -> np.ndarray:
        """Upper bounds that leave no choices but those that ``values`` use."""
        used = values > UNUSED
        used[self.choices.starts[-1] :] = True
        return np.where(used, upper_bound, 0.0)

    def _relaxed(self, upper_bound: np.ndarray) -> Outcome:
        outcome = self.relaxation.solve(upper_bound)
        self.budget.spend(self.relaxation.num_coefficients * (1 + outcome.num_iterations / ITERATIONS))
        return outcome

    def _hold(self, found: Outcome) -> None:
        if found.values is not None and (self.held is None or found.objective < self.held[0]):
            self.held = found.objective, found.values
