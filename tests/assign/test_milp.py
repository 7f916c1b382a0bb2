"""The solver's problem against every assignment there is, priced by hand."""

import itertools
import random
from dataclasses import replace

import highspy
import numpy as np
import pytest

from shardwright.assign import highs
from shardwright.assign.cost import CostModel, has_collective
from shardwright.assign.milp import solve
from shardwright.assign.problem import Problem, SiteChoices, ValueFlow
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Partial, Shard
from shardwright.rules.rule import Strategy

NUM_RANKS = 4
CUTS = tuple(Shard(dim, cut) for dim in (0, 1) for cut in (Cut.even(20, NUM_RANKS), Cut.even(5, NUM_RANKS).scale(4)))
LAYOUTS = (REPLICATE, *dict.fromkeys(CUTS), Partial("sum"))


def _strategy(dice, num_operands, num_results):
    """Whole operands give whole results, partial sums pass through, cuts become other cuts or partial sums."""
    operands = dice.choices(LAYOUTS, k=num_operands)
    if num_operands and all(layout == REPLICATE for layout in operands):
        given = [REPLICATE]
    elif num_operands == 1 and operands[0] == LAYOUTS[-1]:
        given = [LAYOUTS[-1]]
    else:
        # Sources too: where all may be whole, nothing need ever move.
        given = LAYOUTS[1:]
    return Strategy((), tuple(operands), tuple(dice.choices(given, k=num_results)))


def drawn(seed):
    """A problem of a few sites: sources, steps of one or two operands, and readers that want one layout."""
    dice = random.Random(seed)
    sites, values, made = [], [], []

    def site(readings, num_results, num_strategies):
        strategies = {_strategy(dice, readings, num_results): None for _ in range(num_strategies)}
        chosen = list(strategies)
        sites.append(SiteChoices(1, chosen, [dice.uniform(0, 5) for _ in chosen], [0 for _ in chosen]))
        return len(sites) - 1

    readers: dict[int, list[tuple[int, int]]] = {}
    made.extend(site(0, 1, 2) for _ in range(2))
    for _ in range(3):
        sources = dice.sample(made, k=dice.choice((1, 1, 1, 2)))
        new = site(len(sources), 1, 3)
        for operand, source in enumerate(sources):
            readers.setdefault(source, []).append((new, operand))
        made.append(new)
    last = site(1, 0, 1)
    readers.setdefault(made[-1], []).append((last, 0))
    for source in made:
        size = dice.choice((100_000, 2_000_000, 8_000_000))
        values.append(ValueFlow(1, source, 0, tuple(readers.get(source, ())), size))
    return Problem(NUM_RANKS, sites, values, [], CostModel())


def price(problem, chosen):
    """The least time of the collectives under a choice of strategies."""
    total = 0.0
    for value in problem.values:
        source = problem.sites[value.producer].strategies[chosen[value.producer]].results[value.result]
        wanted = {problem.sites[n].strategies[chosen[n]].operands[j] for n, j in value.readers} - {source}
        if source == REPLICATE:
            # Every layout is a local cut of the whole.
            continue
        direct = {t: _cost(problem, value, source, t) for t in wanted if t != REPLICATE and has_collective(source, t)}
        whole = _cost(problem, value, source, REPLICATE)
        needs_whole = wanted - set(direct)
        # Either each layout by its own collective, or any of them cut from the whole, gathered once.
        options = [sum(direct.values())] if not needs_whole else []
        kept = itertools.chain.from_iterable(itertools.combinations(direct, k) for k in range(len(direct) + 1))
        options.extend(whole + sum(direct[t] for t in some) for some in kept)
        total += min(options) if wanted else 0.0
    return total


def _cost(problem, value, source, target):
    return problem.cost.redistribute_us(source, target, value.num_bytes, problem.num_ranks)


@pytest.mark.parametrize("seed", range(100))
def test_the_solver_finds_the_cheapest_assignment(seed):
    problem = drawn(seed)
    found = solve(problem)
    choices = itertools.product(*(range(len(site.strategies)) for site in problem.sites))
    least = min(price(problem, chosen) for chosen in choices)
    assert found.communication_us == pytest.approx(least, rel=1e-5, abs=0.02)
    assert price(problem, found.chosen) == pytest.approx(least, rel=1e-5, abs=0.02)


@pytest.mark.parametrize("status", ["kTimeLimit", "kInfeasible"])
def test_a_plan_gets_an_answer_whatever_the_solver_says_of_the_work(monkeypatch, status):
    """HiGHS has called the second step infeasible on real programs; the answer of the first satisfies it."""
    problem, minimize = drawn(5), highs.IntegerProgram.minimize
    steps = []

    def lost(*_, **__):
        return highs._Found(getattr(highspy.HighsModelStatus, status), None, np.inf, -np.inf, np.array([]))

    def second_is_lost(self, *args):
        steps.append(args)
        if len(steps) > 1:
            monkeypatch.setattr(highs.IntegerProgram, "_run", lost)
        return minimize(self, *args)

    best = solve(problem)
    monkeypatch.setattr(highs.IntegerProgram, "minimize", second_is_lost)
    found = solve(problem)
    assert len(steps) == 3
    assert found.communication_us == pytest.approx(best.communication_us, rel=1e-5, abs=0.02)
    assert found.work_us >= best.work_us - 1e-6
    assert 0 < found.gap <= 1


def test_values_that_do_not_cost_what_the_solver_says_are_solved_for_again(monkeypatch):
    """HiGHS 1.16 has called values proven at a cost that they do not have."""
    run, presolves = highs.IntegerProgram._run, []

    def dishonest(self, cost, upper_bound, **options):
        found = run(self, cost, upper_bound, **options)
        presolves.append(options.get("presolve", "choose"))
        if "is_relaxed" in options:
            # What has no integers is searched further.
            return replace(found, values=found.values / 2)
        if "presolve" in options:
            return found
        # A point of the program that is not the least, for the least.
        worst = run(self, -cost, upper_bound)
        return replace(found, values=worst.values, objective=float(cost @ worst.values), is_consistent=False)

    problem = replace(drawn(5), auto=True)
    best = solve(problem)
    monkeypatch.setattr(highs.IntegerProgram, "_run", dishonest)
    assert solve(problem).objective == pytest.approx(best.objective)
    assert presolves[-1] == "off"


def test_a_relaxation_in_integers_is_the_answer(monkeypatch):
    run, relaxed = highs.IntegerProgram._run, []

    def counted(self, cost, upper_bound, **options):
        relaxed.append(options.get("is_relaxed", False))
        return run(self, cost, upper_bound, **options)

    problem = replace(drawn(5), auto=True)
    best = solve(problem)
    assert best.gap == 0
    monkeypatch.setattr(highs.IntegerProgram, "_has_integers", lambda self, values: False)
    assert solve(problem).objective == pytest.approx(best.objective, rel=1e-9)
    monkeypatch.undo()
    monkeypatch.setattr(highs.IntegerProgram, "_run", counted)
    solve(problem)
    assert relaxed == [True]


@pytest.mark.parametrize("auto", [False, True])
def test_a_search_for_better_ends_where_there_is_none(auto):
    problem = replace(drawn(5), auto=auto)
    best = solve(problem)
    with pytest.raises(highs.NothingBelowError):
        solve(problem, better_than=best)
    worse = replace(best, objective=best.objective * 1.5 + 1)
    assert solve(problem, better_than=worse) == best


def test_sums_do_not_depend_on_their_order():
    dice = random.Random(0)
    cost = np.array([dice.choice((1, -1)) * 10 ** dice.uniform(-8, 8) for _ in range(20_000)])
    order = np.array(dice.sample(range(len(cost)), len(cost)))
    values = np.linspace(0, 1, len(cost))
    assert highs.dot(cost, values) == highs.dot(cost[order], values[order])
