"""Branching on choices that one row ties together, against every answer there is."""

import highspy
import numpy as np
import pytest

from shardwright.assign import branch, highs
from shardwright.assign.branch import ChoiceGroups
from shardwright.assign.effort import Budget
from shardwright.assign.integer_program import IntegerProgram, NothingBelowError
from shardwright.assign.relaxation import Relaxation
from tests.support.drawn_problems import knapsack


@pytest.fixture(params=["branching alone", "nodes solved whole"])
def way(request, monkeypatch):
    """With HiGHS's own search on nodes or without; never on the whole program."""
    monkeypatch.setattr(branch, "SMALL", {"branching alone": -1, "nodes solved whole": 1000}[request.param])
    monkeypatch.setattr(branch, "NEARBY", 0)
    monkeypatch.setattr(branch, "FEW", 0)
    monkeypatch.delattr(IntegerProgram, "_whole")


@pytest.mark.parametrize("seed", range(20))
def test_the_least_is_found_and_proven(way, seed):
    program, cost, least = knapsack(seed)
    found = program.minimize(cost)
    assert found.objective == pytest.approx(least, rel=1e-6, abs=1e-6)
    assert found.gap == 0
    assert np.all(np.abs(found.values - np.round(found.values)) < highs.UNUSED)


@pytest.mark.parametrize("seed", range(20))
def test_a_search_below_the_least_finds_nothing(way, seed):
    program, cost, least = knapsack(seed)
    with pytest.raises(NothingBelowError):
        program.minimize(cost, below=least - 1e-4)
    assert program.minimize(cost, below=least + 1e-2).objective == pytest.approx(least, abs=1e-5)


def test_relaxations_leave_these_programs_something_to_do():
    undecided = []
    for seed in range(20):
        program, cost, _ = knapsack(seed)
        with Relaxation(program._model(cost, program.upper_bound, num_integers=0), cost, {}, Budget().clock) as relaxed:
            undecided.append(len(program.choices.undecided(relaxed.solve(program.upper_bound).values)))
    assert sum(map(bool, undecided)) > 15


@pytest.mark.parametrize("seed", range(5))
def test_what_cannot_be_relaxed_is_not_taken_for_closed(monkeypatch, seed):
    """HiGHS's own search is to look there."""
    monkeypatch.setattr(branch, "SMALL", -1)
    program, cost, least = knapsack(seed)
    solve, times = Relaxation.solve, []

    def fails_once(self, upper_bound):
        times.append(upper_bound)
        found = solve(self, upper_bound)
        if len(times) == 1:
            return found
        return highs.Outcome(highspy.HighsModelStatus.kUnknown, None, np.inf, -np.inf, np.array([]))

    monkeypatch.setattr(Relaxation, "solve", fails_once)
    assert program.minimize(cost).objective == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize(("weights", "light"), [((0, 9, 5), [0]), ((4, 4, 4), [1])])
def test_both_halves_of_a_choice_are_used(weights, light):
    choices = ChoiceGroups(np.array([0, 1, 4]), np.array([0.0, *weights]))
    first, second = choices.halves(np.array([1.0, 0.3, 0.7, 0.0, 0.5]))
    assert list(first - 1) == light
    assert sorted([*first, *second]) == [1, 2, 3]


def test_what_branching_does_is_counted():
    program, cost, _ = knapsack(3)
    program.minimize(cost)
    assert program.budget.spent > 0
