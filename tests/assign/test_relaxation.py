"""A relaxation that is solved again under other bounds gives what one made for them gives."""

import random

import numpy as np
import pytest

from shardwright.assign.effort import Budget
from shardwright.assign.highs import NoAnswerError
from shardwright.assign.relaxation import Relaxation
from tests.support.drawn_problems import knapsack


def relaxation(program, cost, **options):
    return Relaxation(program._model(cost, program.upper_bound, num_integers=0), cost, options, Budget().clock)


def test_a_basis_at_hand_changes_no_answer():
    program, cost, _ = knapsack(0)
    dice = random.Random(0)
    bounds = [np.array([float(dice.random() > 0.3) for _ in cost]) for _ in range(20)]
    with relaxation(program, cost) as kept:
        for upper_bound in (*bounds, program.upper_bound, *bounds):
            with relaxation(program, cost) as made:
                fresh, again = made.solve(upper_bound), kept.solve(upper_bound)
            assert again.is_infeasible == fresh.is_infeasible
            if not fresh.is_infeasible:
                assert again.objective == pytest.approx(fresh.objective, abs=1e-7)
                assert np.all(again.values <= upper_bound + 1e-9)


def test_an_option_that_is_not_known_is_named():
    program, cost, _ = knapsack(0)
    with pytest.raises(NoAnswerError, match="did not take the option thread=1"):
        relaxation(program, cost, thread=1)
