"""The steps of a search: what is done with what HiGHS says, true or not."""

from dataclasses import replace

import highspy
import numpy as np
import pytest

from shardwright.assign import highs, integer_program
from shardwright.assign.milp import solve
from shardwright.assign.relaxation import Relaxation
from tests.support.drawn_problems import drawn


@pytest.mark.parametrize("status", ["kTimeLimit", "kInfeasible"])
def test_a_plan_gets_an_answer_whatever_the_solver_says_of_the_work(monkeypatch, status):
    """HiGHS has called the second step infeasible on real programs; the answer of the first satisfies it."""
    problem, minimize = drawn(5), integer_program.IntegerProgram.minimize
    steps = []

    def lost(*_, **__):
        return highs.Outcome(getattr(highspy.HighsModelStatus, status), None, np.inf, -np.inf, np.array([]))

    def second_is_lost(self, *args):
        steps.append(args)
        if len(steps) > 1:
            monkeypatch.setattr(integer_program.IntegerProgram, "_run", lost)
            monkeypatch.setattr(Relaxation, "solve", lost)
        return minimize(self, *args)

    best = solve(problem)
    monkeypatch.setattr(integer_program.IntegerProgram, "minimize", second_is_lost)
    found = solve(problem)
    assert len(steps) == 3
    assert found.communication_us == pytest.approx(best.communication_us, rel=1e-5, abs=0.02)
    assert found.work_us >= best.work_us - 1e-6
    assert 0 < found.gap <= 1


def unrelaxed(*_, **__):
    """No relaxation comes out."""
    return highs.Outcome(highspy.HighsModelStatus.kUnknown, None, np.inf, -np.inf, np.array([]))


def test_values_that_do_not_cost_what_the_solver_says_are_solved_for_again(monkeypatch):
    """HiGHS 1.16 has called values proven at a cost that they do not have."""
    run, presolves = integer_program.IntegerProgram._run, []

    def dishonest(self, cost, upper_bound, **options):
        found = run(self, cost, upper_bound, **options)
        presolves.append(options.get("presolve", "choose"))
        if "presolve" in options:
            return found
        # A point of the program that is not the least, for the least.
        worst = run(self, -cost, upper_bound)
        return replace(found, values=worst.values, objective=float(cost @ worst.values), is_consistent=False)

    problem = replace(drawn(5), auto=True)
    best = solve(problem)
    monkeypatch.setattr(Relaxation, "solve", unrelaxed)
    monkeypatch.setattr(integer_program.IntegerProgram, "_run", dishonest)
    assert solve(problem).objective == pytest.approx(best.objective)
    assert presolves == ["choose", "off"]


def test_a_relaxation_in_integers_is_the_answer(monkeypatch):
    problem = replace(drawn(5), auto=True)
    best = solve(problem)
    assert best.gap == 0
    with monkeypatch.context() as patch:
        patch.setattr(Relaxation, "solve", unrelaxed)
        assert solve(problem).objective == pytest.approx(best.objective, rel=1e-9)
    monkeypatch.delattr(integer_program.IntegerProgram, "_run")
    assert solve(problem) == best


@pytest.mark.parametrize("auto", [False, True])
def test_a_search_for_better_ends_where_there_is_none(auto):
    problem = replace(drawn(5), auto=auto)
    best = solve(problem)
    with pytest.raises(integer_program.NothingBelowError):
        solve(problem, better_than=best)
    worse = replace(best, objective=best.objective * 1.5 + 1)
    assert solve(problem, better_than=worse) == best
