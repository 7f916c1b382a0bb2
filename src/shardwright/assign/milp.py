"""The assignment as a mixed-integer program, solved exactly by HiGHS.

Sets: sites ``n`` (equal steps folded, ``m_n`` members), each with strategies ``s``; values ``v`` (``m_v`` members)
made by site ``p(v)`` and read by operands ``(n, j)``; layouts ``L``.

Variables                                                                     (made in `_Model.variables`)

- ``x[n,s]`` ∈ {0,1}: site n uses strategy s.
- ``a[v,L]`` ≥ 0: value v is available in layout L. Made once, used by all readers.
- ``y[v,K→L]`` ≥ 0: one reshard of v from K, the layout it is produced in, to L.
- ``z[v,L]`` ≥ 0: v in layout L cut locally from the whole value.

Constraints

- one strategy a site: ``Σ_s x[n,s] = 1``                                       (`_Model.choose_one`)
- readers find what they need: ``Σ_{s: operand j of s wants L} x[n,s] ≤ a[v,L]``  (`_Model.supply_readers`)
- nothing from nothing: ``a[v,L] ≤ P[v,L] + Σ_K y[v,K→L] + z[v,L]`` with ``P[v,L] = Σ_{s: result of s is L} x[p(v),s]``;
  ``y[v,K→L] ≤ P[v,K]``; ``z[v,L] ≤ a[v,Replicate]``                            (`_Model.account_for`)
- mutated buffers and tied weights have one layout: ``Σ x[m, L] = Σ x[n, L]``     (`_Model.tie`)
- memory, under ``"auto"``: ``Σ m_n · bytes(n,s) · x[n,s] ≤ (1 + slack) · least``   (`_Model.limit`)

Objectives, one after the other, each bounding the next                          (`solve`)

- under a plan: 1. reshard time ``Σ m_v · c(K→L) · y``; 2. work ``Σ m_n · w(n,s) · x[n,s]`` plus small preferences;
- under ``"auto"``: 1. weight bytes; 2. reshard time + work + small preferences.

The preferences break ties the same way everywhere: reduce early, cut rather than repeat, first strategy first. HiGHS
runs on one thread with fixed settings, and nothing depends on hash order, so every rank finds the same assignment.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import scipy.sparse

from shardwright.assign.cost import CostModel, has_collective
from shardwright.errors import AssignmentError
from shardwright.layout import REPLICATE, Layout, Partial
from shardwright.rules.rule import Strategy

TIE = 1e-4
"""Size in microseconds of the first preference; those after it are smaller."""

GAP = 1e-4
"""The solver stops when its answer is proven to be within this share of the optimum."""

WEIGHT_GATHER_US = 1e4
"""Added to the cost of resharding a parameter, in microseconds: more than any activation's."""


@dataclass
class SiteChoices:
    """One site for the solver: its strategies with their costs, how many steps it stands for."""

    members: int
    strategies: list[Strategy]
    work_us: list[float]
    weight_bytes: list[int]
    name: str = ""


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
    time_limit_s: float = 60.0


@dataclass
class Solution:
    """The strategy number of each site, the cost in microseconds, and the proven gap (0 when optimal)."""

    chosen: list[int]
    reshard_us: float
    work_us: float
    gap: float = 0.0


def solve(problem: Problem) -> Solution:
    """The best assignment; raises `AssignmentError` when none satisfies the plan."""
    model = _Model(problem)
    gap = 0.0
    if problem.auto:
        least, _, got = model.minimize(model.bytes_cost)
        gap = max(gap, got)
        model.limit(model.bytes_cost, least * (1 + problem.slack) + 1)
        _, values, got = model.minimize(model.reshard_cost + model.local_cost + model.work_cost + model.preference)
    else:
        reshard, values, got = model.minimize(model.reshard_cost)
        gap = max(gap, got)
        # Looser than the solver's tolerances, far tighter than one collective's latency.
        model.limit(model.reshard_cost, reshard * (1 + 1e-6) + 1e-2)
        _, values, got = model.minimize(model.work_cost + model.preference + model.local_cost + TIE * model.reshard_cost)
    gap = max(gap, got)
    chosen = []
    for first, site in zip(model.first_choice, problem.sites, strict=True):
        chosen.append(int(np.argmax(values[first : first + len(site.strategies)])))
    return Solution(chosen, float(model.reshard_cost @ values), float(model.work_cost @ values), gap)


@dataclass
class _Model:
    problem: Problem
    first_choice: list[int] = field(default_factory=list)
    num_variables: int = 0
    rows: list[dict[int, float]] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for site in self.problem.sites:
            self.first_choice.append(self.num_variables)
            self.num_variables += len(site.strategies)
        self.num_choices = self.num_variables
        self._reshards: list[tuple[int, float]] = []
        self._cuts: list[tuple[int, float]] = []
        self.choose_one()
        for value in self.problem.values:
            self.account_for(value)
        self.tie()
        self.reshard_cost = self._vector(dict(self._reshards))
        self.local_cost = self._vector(dict(self._cuts))
        self.work_cost = self._by_choice(lambda site, s: site.members * site.work_us[s])
        self.bytes_cost = self._by_choice(lambda site, s: site.members * site.weight_bytes[s])
        self.preference = self._by_choice(lambda site, s: TIE * site.members * _preference(site.strategies[s], s))

    def _vector(self, entries: dict[int, float]) -> np.ndarray:
        vector = np.zeros(self.num_variables)
        for index, cost in entries.items():
            vector[index] = cost
        return vector

    def _by_choice(self, cost) -> np.ndarray:  # noqa: ANN001 - a local function of (site, strategy number)
        vector = np.zeros(self.num_variables)
        for first, site in zip(self.first_choice, self.problem.sites, strict=True):
            for s in range(len(site.strategies)):
                vector[first + s] = cost(site, s)
        return vector

    def _new(self) -> int:
        self.num_variables += 1
        return self.num_variables - 1

    def _row(self, entries: dict[int, float], lower: float, upper: float) -> None:
        self.rows.append(entries)
        self.lower.append(lower)
        self.upper.append(upper)

    def choose_one(self) -> None:
        """Σ_s x[n,s] = 1."""
        for first, site in zip(self.first_choice, self.problem.sites, strict=True):
            if not site.strategies:
                raise AssignmentError(f"{site.name}: no strategy satisfies the plan")
            self._row({first + s: 1.0 for s in range(len(site.strategies))}, 1.0, 1.0)

    def account_for(self, value: ValueFlow) -> None:
        """The availability of one value: supply of its readers, reshards, local cuts."""
        wanted = self.supply_readers(value)
        produced: dict[Layout, list[int]] = {}
        maker = self.problem.sites[value.producer]
        for s, strategy in enumerate(maker.strategies):
            layout = strategy.results[value.result]
            produced.setdefault(layout, []).append(self.first_choice[value.producer] + s)
        # The whole value is a stepping stone to any other layout, even when nobody reads it whole.
        layouts = dict.fromkeys([*wanted, REPLICATE])
        available = {layout: self._new() for layout in layouts}
        for layout, uses in wanted.items():
            for use in uses:
                self._row({**dict.fromkeys(use, 1.0), available[layout]: -1.0}, -np.inf, 0.0)
        for layout in layouts:
            row = {available[layout]: 1.0}
            for source, choices in produced.items():
                if source == layout:
                    row.update(dict.fromkeys(choices, -1.0))
                elif has_collective(source, layout):
                    reshard = self._new()
                    cost = self.problem.cost.reshard_us(source, layout, value.num_bytes, self.problem.num_ranks)
                    # A weight that is gathered on every call was not worth cutting: only where nothing else works.
                    cost += WEIGHT_GATHER_US * value.is_weight
                    self._reshards.append((reshard, value.members * cost))
                    self._row({reshard: 1.0, **dict.fromkeys(choices, -1.0)}, -np.inf, 0.0)
                    row[reshard] = -1.0
            if layout != REPLICATE and (not isinstance(layout, Partial) or (layout.op == "sum" and not value.is_bool)):
                local = self._new()
                cost = self.problem.cost.reshard_us(REPLICATE, layout, value.num_bytes, self.problem.num_ranks)
                self._cuts.append((local, TIE * value.members * cost))
                self._row({local: 1.0, available[REPLICATE]: -1.0}, -np.inf, 0.0)
                row[local] = -1.0
            self._row(row, -np.inf, 0.0)

    def supply_readers(self, value: ValueFlow) -> dict[Layout, list[list[int]]]:
        """For each layout some reader may want: the choices, grouped by reader, that want it."""
        wanted: dict[Layout, list[list[int]]] = {}
        for site, operand in value.readers:
            uses: dict[Layout, list[int]] = {}
            for s, strategy in enumerate(self.problem.sites[site].strategies):
                uses.setdefault(strategy.operands[operand], []).append(self.first_choice[site] + s)
            for layout, choices in uses.items():
                wanted.setdefault(layout, []).append(choices)
        return wanted

    def tie(self) -> None:
        """A mutated buffer has one layout before and after; tied weights have one layout."""
        for tied in self.problem.ties:
            held = [[(s.results or s.operands)[0] for s in self.problem.sites[site].strategies] for site in tied]
            for layout in dict.fromkeys(held[0] + held[1]):
                row: dict[int, float] = {}
                for site, layouts, sign in zip(tied, held, (1.0, -1.0), strict=True):
                    row.update((self.first_choice[site] + i, sign) for i, one in enumerate(layouts) if one == layout)
                self._row(row, 0.0, 0.0)

    def limit(self, cost: np.ndarray, bound: float) -> None:
        """Cost · variables ≤ bound."""
        self._row({int(i): float(cost[i]) for i in np.flatnonzero(cost)}, -np.inf, bound)

    def minimize(self, cost: np.ndarray) -> tuple[float, np.ndarray, float]:
        """(objective, values, proven gap) of the current model."""
        if not self.num_variables:
            return 0.0, np.zeros(0), 0.0
        rows = [i for i, row in enumerate(self.rows) for _ in row]
        columns = [c for row in self.rows for c in row]
        data = [v for row in self.rows for v in row.values()]
        matrix = scipy.sparse.csr_array((data, (rows, columns)), shape=(len(self.rows), self.num_variables))
        integrality = np.zeros(self.num_variables)
        integrality[: self.num_choices] = 1
        with _quiet_stdout():
            result = scipy.optimize.milp(
                cost,
                constraints=scipy.optimize.LinearConstraint(matrix, self.lower, self.upper),
                integrality=integrality,
                bounds=scipy.optimize.Bounds(0, 1),
                options={"time_limit": self.problem.time_limit_s, "mip_rel_gap": GAP, "presolve": True},
            )
        if result.x is None:
            if result.status == 2:
                raise AssignmentError(
                    "no assignment of layouts satisfies the plan: some pinned layout cannot be reached by any reshard\n"
                    "  try: remove entries until it fits, or pin Replicate() instead of Partial()"
                )
            raise AssignmentError(
                f"the solver found no assignment within {self.problem.time_limit_s:.0f} s ({result.message})\n"
                "  try: a plan that pins more tensors, or a longer time limit"
            )
        return float(result.fun), result.x, float(result.mip_gap or 0.0)


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """HiGHS prints a line of its own to file descriptor 1 now and then, whatever its options say.

    Programs that print JSON cannot have that, so the descriptor points elsewhere while it runs.
    """
    sys.stdout.flush()
    saved, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(sink)


def _preference(strategy: Strategy, number: int) -> float:
    """Reduce early (partial results cost most), prefer a cut to whole work, then the first strategy."""
    partial = sum(isinstance(layout, Partial) for layout in strategy.results)
    return 1.0 * partial + (0.0 if strategy.cuts else 0.1) + 1e-3 * min(number, 50)


def describe_choice(strategies: Sequence[Strategy], number: int) -> str:
    """A strategy in words, for reports."""
    strategy = strategies[number]
    return ", ".join(name for name, _ in strategy.cuts) or "whole"
