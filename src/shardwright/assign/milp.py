"""The assignment as a mixed-integer program, solved exactly by HiGHS.

Sets: sites ``n`` (equal steps folded, ``m_n`` members), each with strategies ``s``; values ``v`` (``m_v`` members)
made by site ``p(v)`` and read by operands ``(n, j)``; layouts ``L``.

Variables                                                                     (made in `_Model`)

- ``x[n,s]`` ∈ {0,1}: site n uses strategy s.
- ``y[v,K→L]`` ≥ 0: one collective brings v from K, the layout it is produced in, to L. Made once, used by all readers.
- ``d[r,K→L]`` ≥ 0: reader r = (n, j) of v gets its L straight from K: as it is, or by ``y[v,K→L]``.
- ``i[r,K]`` ≥ 0: r takes the whole value, which ``y[v,K→Replicate]`` makes of K; ``o[r,L]`` ≥ 0: and cuts L from it.

Constraints

- one strategy a site: ``Σ_s x[n,s] = 1``                                       (`_Model.choose_one`)
- what is taken is what is made: ``Σ_L d[r,K→L] + i[r,K] = Σ_{s: result of s is K} x[p(v),s]``  (`_Model.supply`)
- and what is read: ``Σ_K d[r,K→L] + o[r,L] = Σ_{s: operand j of s is L} x[n,s]``                (`_Model.supply`)
- whole values in are whole values out: ``Σ_K i[r,K] = Σ_L o[r,L]``                              (`_Model.supply`)
- collectives carry it: ``d[r,K→L] ≤ y[v,K→L]``, ``i[r,K] ≤ y[v,K→R]``; where v has one reader, they are ``y`` itself
- mutated buffers and tied weights have one layout: ``Σ x[m, L] = Σ x[n, L]``     (`_Model.tie`)
- memory, under ``"auto"``: ``Σ m_n · bytes(n,s) · x[n,s] ≤ byte_limit``             (`_Model.limit_bytes`)

Flows per reader keep the linear relaxation tight: half a collective cannot serve one reader twice. Passing by the whole
value keeps them few: one for each layout at either end, not one for each pair.

A part of a batch goes on as it is cut to whatever can read it so (`ValueFlow.stays`). A value that a single step reads
and passes on cut as it came, no larger, is not gathered (`_Model.passed_on`): gathered behind that step it costs no
more, and the step works on less. Chains of views, casts and slices have one place for a gather this way, not one at
every link.

Objectives, one after the other, each bounding the next                          (`solve`)

- under a plan: 1. communication time ``Σ m_v · c(K→L) · y``; 2. work ``Σ m_n · w(n,s) · x[n,s]`` plus the price of
  quantised weights' bytes and small preferences, where the search ended early with the collectives of 1.
  (`_least_work`);
- under ``"auto"``: communication time + work + small preferences, weight bytes bounded by `byte_limit`.

The preferences break ties the same way everywhere: store less, reduce early (but where another axis reduces next, right
there: `partition.merge` makes one of the two), cut rather than repeat, first strategy first. HiGHS runs on
one thread with fixed settings, and nothing depends on hash order, so every rank finds the same assignment.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from shardwright.assign.branch import ChoiceGroups
from shardwright.assign.cost import has_collective, held_fraction
from shardwright.assign.highs import UNUSED, Rows, dot, relative_gap
from shardwright.assign.integer_program import PROVEN, Answer, InfeasibleError, IntegerProgram
from shardwright.assign.problem import Problem, SiteChoices, Solution, ValueFlow, byte_limit, byte_ranges
from shardwright.errors import AssignmentError
from shardwright.layout.layout import REPLICATE, Layout, Owned, Partial, Shard
from shardwright.rules.rule import Strategy

TIE = 1e-4
"""Size in microseconds of the first preference; those after it are smaller."""

WEIGHT_GATHER_US = 1e4
"""Added to the cost of a parameter's change of layout, in microseconds: more than any activation's."""


def solve(problem: Problem, *, better_than: Solution | None = None) -> Solution:
    """The best assignment; raises `AssignmentError` when none satisfies the plan, or none is found in time.

    As good as the budget of the problem allows, which it spends; under a plan, up to a quarter more goes into the work.

    ``better_than``: of another way to write the same program; raises `NothingBelowError`, soon, where it is found that
    this way costs no less by more than what counts as proven.
    """
    model = _Model(problem)
    below = np.inf if better_than is None else better_than.objective * (1 - PROVEN)
    if problem.auto:
        model.limit_bytes()
        answer = model.minimize(model.communication_cost + model.local_cost + model.work_cost + model.preference, below)
        objective = answer.objective
    else:
        first = model.minimize(model.communication_cost, below)
        objective = first.objective
        # Looser than the solver's tolerances, far tighter than one collective's latency.
        model.limit(model.communication_cost, first.objective * (1 + 1e-6) + 1e-2)
        model.budget = model.budget.at_least(problem.budget.steps / 4)
        answer = _least_work(model, first)
    values, chosen = answer.values, []
    for start, site in zip(model.first_choice, problem.sites, strict=True):
        chosen.append(int(np.argmax(values[start : start + len(site.strategies)])))
    communication, work = dot(model.communication_cost, values), dot(model.work_cost, values)
    return Solution(chosen, communication, work, objective, answer.gap)


def _least_work(model: "_Model", first: Answer) -> Answer:
    """The least work among the answers that communicate no more than ``first``, and its gap.

    Where the search for that, or for the communication before, ended early, it is the least with the very collectives
    of ``first``: little is left to choose then, and the answer comes at once.
    """
    cost = model.work_cost + model.preference + model.local_cost + TIE * model.communication_cost
    # Itself an answer, with nothing known about its work.
    held = Answer(dot(cost, first.values), first.values, 1.0)
    is_least = first.gap <= PROVEN
    if is_least:
        held = model.minimize(cost, np.inf, first.values)
    if not is_least or held.gap > PROVEN:
        model.forbid((model.communication_cost > 0) & (first.values < UNUSED))
        same = model.minimize(cost, np.inf, first.values)
        # What is least with these collectives says nothing about others.
        held = min(held, replace(same, gap=held.gap), key=lambda answer: answer.objective)
    # ``held.gap`` is of the work alone; where the communication is not proven, that gap is the one to name.
    communication = dot(model.communication_cost, held.values)
    of_all = relative_gap(communication + held.objective, communication + held.objective * (1 - held.gap))
    return replace(held, gap=of_all if is_least else first.gap)


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
        self.budget = self.problem.budget
        self._communication: list[tuple[int, float]] = []
        self._cuts: list[tuple[int, float]] = []
        self._results: dict[int, list[ValueFlow]] = {}
        for value in self.problem.values:
            self._results.setdefault(value.producer, []).append(value)
        self.choose_one()
        for value in self.problem.values:
            self.supply(value)
        self.tie()
        self.upper_bound = np.ones(self.num_variables)
        inside = self._by_choice(lambda site, s: site.members * (site.inside_us[s] if site.inside_us else 0.0))
        self.communication_cost = self._vector(dict(self._communication)) + inside
        self.local_cost = self._vector(dict(self._cuts))
        self.work_cost = self._by_choice(lambda site, s: site.members * site.work_us[s])
        self.bytes_cost = self._by_choice(lambda site, s: site.members * site.bound_factor * site.weight_bytes[s])
        self.preference = self._by_choice(
            lambda site, s: site.members * (TIE * _preference(site, s) + site.byte_us * site.weight_bytes[s])
        )

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

    def _strategies(self, site: int) -> list[Strategy]:
        return self.problem.sites[site].strategies

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

    def supply(self, value: ValueFlow) -> None:
        """Flows of one value from its producer to each of its readers, and the collectives they share."""
        made = self._choices_by_layout(value.producer, lambda s: s.results[value.result])
        passed_on = self.passed_on(value)
        shared: dict[tuple[Layout, Layout], int] = {}
        for site, operand in value.readers:
            read = self._choices_by_layout(site, lambda s, operand=operand: s.operands[operand])
            if set(made) == set(read) and len(made) == 1:
                continue
            leaving: dict[Layout, list[int]] = {source: [] for source in made}
            arriving: dict[Layout, list[int]] = {target: [] for target in read}
            kept = {value.part} & made.keys() & read.keys() if (site, operand) in value.stays else set()
            for source in made:
                for target in read:
                    if source in kept and target != source:
                        continue
                    if target != REPLICATE and (source == target or has_collective(source, target)):
                        flow = self._flow(value, source, target, shared)
                        leaving[source].append(flow)
                        arriving[target].append(flow)
            whole_in = {
                source: self._flow(value, source, REPLICATE, shared)
                for source in made
                if source == REPLICATE or (has_collective(source, REPLICATE) and source not in passed_on | kept)
            }
            for source, flow in whole_in.items():
                leaving[source].append(flow)
            whole_out = {
                target: self._cut(value, target)
                for target in read
                if not isinstance(target, Owned)
                and (not isinstance(target, Partial) or (target.op == "sum" and not value.is_bool))
            }
            for target, flow in whole_out.items():
                arriving[target].append(flow)
            self._row({**dict.fromkeys(whole_in.values(), 1.0), **dict.fromkeys(whole_out.values(), -1.0)}, 0.0, 0.0)
            for choices, flows in ((made, leaving), (read, arriving)):
                for layout, numbers in choices.items():
                    self._row({**dict.fromkeys(flows[layout], 1.0), **dict.fromkeys(numbers, -1.0)}, 0.0, 0.0)

    def passed_on(self, value: ValueFlow) -> set[Layout]:
        """Cuts that the only reader of a value passes on, on no more bytes: gathered there, they cost no more."""
        if len(value.readers) != 1:
            return set()
        site = value.readers[0][0]
        results = self._results.get(site, ())
        if len(results) != 1 or not results[0].members == value.members == self.problem.sites[site].members:
            return set()
        (result,) = results
        pairs = [(s.operands[0], s.results[result.result]) for s in self._strategies(site) if len(s.operands) == 1]
        return {
            taken
            for taken, given in pairs
            if isinstance(taken, Shard)
            and isinstance(given, Shard)
            and result.num_bytes * held_fraction(given) <= value.num_bytes * held_fraction(taken)
        }

    def _flow(self, value: ValueFlow, source: Layout, target: Layout, shared: dict[tuple[Layout, Layout], int]) -> int:
        """A flow to one reader: free where nothing moves, else carried by a collective, its own or shared."""
        flow = self._new()
        if source != target and len(value.readers) == 1:
            self._communication.append((flow, self._price(value, source, target)))
        elif source != target:
            self._row({flow: 1.0, self._collective(value, source, target, shared): -1.0}, -np.inf, 0.0)
        return flow

    def _cut(self, value: ValueFlow, target: Layout) -> int:
        """A flow that ends in a local cut of the whole value, at its small cost."""
        flow = self._new()
        cost = self.problem.cost.redistribute_us(REPLICATE, target, value.num_bytes, self.problem.num_ranks)
        self._cuts.append((flow, TIE * value.members * cost))
        return flow

    def _collective(
        self, value: ValueFlow, source: Layout, target: Layout, shared: dict[tuple[Layout, Layout], int]
    ) -> int:
        """The variable of one collective of a value, the same for all its readers."""
        if (source, target) not in shared:
            shared[source, target] = self._new()
            self._communication.append((shared[source, target], self._price(value, source, target)))
        return shared[source, target]

    def _price(self, value: ValueFlow, source: Layout, target: Layout) -> float:
        """The time of a collective on every member of a value, in microseconds."""
        cost = self.problem.cost.redistribute_us(source, target, value.num_bytes, self.problem.num_ranks)
        # A weight that is gathered on every call was not worth cutting: only where nothing else works.
        return value.members * (cost + WEIGHT_GATHER_US * value.is_weight)

    def _choices_by_layout(self, site: int, layout: Callable[[Strategy], Layout]) -> dict[Layout, list[int]]:
        found: dict[Layout, list[int]] = {}
        for s, strategy in enumerate(self._strategies(site)):
            found.setdefault(layout(strategy), []).append(self.first_choice[site] + s)
        return found

    def tie(self) -> None:
        """A mutated buffer has one layout before and after; tied weights have one layout."""
        for tied in self.problem.ties:
            held = [[(s.results or s.operands)[0] for s in self.problem.sites[site].strategies] for site in tied]
            for layout in dict.fromkeys(held[0] + held[1]):
                row: dict[int, float] = {}
                for site, layouts, sign in zip(tied, held, (1.0, -1.0), strict=True):
                    row.update((self.first_choice[site] + i, sign) for i, one in enumerate(layouts) if one == layout)
                self._row(row, 0.0, 0.0)

    def limit_bytes(self) -> None:
        """Σ m_n · bytes(n,s) · x[n,s] ≤ byte_limit, of what each site holds beyond its least: of two forms of one row
        the one that says at once which strategies are too large whatever the others hold.
        """
        ranges = byte_ranges(self.problem)
        room = byte_limit(ranges, self.problem.slack) + 1 - sum(least for least, _ in ranges)
        excess = np.zeros(self.num_variables)
        for first, site, (least, _) in zip(self.first_choice, self.problem.sites, ranges, strict=True):
            choices = slice(first, first + len(site.strategies))
            excess[choices] = self.bytes_cost[choices] - least
        self.limit(excess, room)

    def limit(self, cost: np.ndarray, bound: float) -> None:
        """Cost · variables ≤ bound. What costs more than that by itself is out, and out of the solver's numbers:
        HiGHS has called a problem infeasible that had a weight's price of 1e4 in a row bounded by 1e-2.
        """
        beyond = cost > bound
        self.forbid(beyond)
        self._row({int(i): float(cost[i]) for i in np.flatnonzero(cost) if not beyond[i]}, -np.inf, bound)

    def forbid(self, variables: np.ndarray) -> None:
        """Variables that have to be 0, as a mask."""
        self.upper_bound = np.where(variables, 0.0, self.upper_bound)

    def minimize(self, cost: np.ndarray, below: float = np.inf, known: np.ndarray | None = None) -> Answer:
        """The least of a cost in the current model; raises `AssignmentError` where there is no answer, and
        `NothingBelowError` where it is not below ``below``. ``known``: the values of an answer.
        """
        rows = Rows(
            np.cumsum([0, *map(len, self.rows)]),
            np.array([column for row in self.rows for column in row]),
            np.array([value for row in self.rows for value in row.values()]),
        )
        limits = np.array(self.lower), np.array(self.upper)
        weights = self.bytes_cost if self.problem.auto else self.work_cost
        choices = ChoiceGroups(np.array([*self.first_choice, self.num_choices]), weights[: self.num_choices])
        program = IntegerProgram(rows, *limits, self.upper_bound, choices, self.budget)
        try:
            return program.minimize(cost, below, known)
        except InfeasibleError as error:
            raise AssignmentError(
                "no assignment of layouts satisfies the plan: some pinned layout cannot be reached by any collective\n"
                "  try: remove entries until it fits, or pin Replicate() instead of Partial()"
            ) from error


def _preference(site: SiteChoices, number: int) -> float:
    """Reduce early (partial results cost most), prefer a cut to whole work, then the first strategy.

    A weight stored as a partial sum (a bias on the first rank, zeros on the others) delays nothing. What another axis
    sums next is best summed there: neighbours become one.
    """
    strategy = site.strategies[number]
    partial = sum(isinstance(layout, (Partial, Owned)) for layout in strategy.results) if strategy.operands else 0
    return (-1.0 if site.is_summed else 1.0) * partial + (0.0 if strategy.cuts else 0.1) + 1e-3 * min(number, 50)
