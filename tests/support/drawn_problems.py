"""Small problems of the solver, drawn at random."""

import itertools
import random

import numpy as np

from shardwright.assign.branch import ChoiceGroups
from shardwright.assign.cost import CostModel
from shardwright.assign.effort import Budget
from shardwright.assign.highs import Rows
from shardwright.assign.integer_program import IntegerProgram
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


GROUPS, SIZE = 7, 3


def knapsack(seed):
    """One of three in each group, under a limit on weights: the program, its costs, and the least there is."""
    dice = random.Random(seed)
    weights = np.array([dice.choice((0, 5, 7, 12)) + dice.random() for _ in range(GROUPS * SIZE)])
    cost = np.array([dice.uniform(0, 20) - weight for weight in weights])
    groups = weights.reshape(GROUPS, SIZE)
    limit = groups.min(axis=1).sum() + 0.3 * (groups.max(axis=1) - groups.min(axis=1)).sum()
    starts = np.arange(0, GROUPS * SIZE + 1, SIZE)
    rows = Rows(
        np.array([*starts, 2 * starts[-1]]), np.tile(np.arange(starts[-1]), 2), np.append(np.ones(starts[-1]), weights)
    )
    ones = np.ones(GROUPS)
    program = IntegerProgram(
        rows,
        np.append(ones, -np.inf),
        np.append(ones, limit),
        np.ones(starts[-1]),
        ChoiceGroups(starts, weights),
        Budget(),
    )
    answers = itertools.product(*(range(start, start + SIZE) for start in starts[:-1]))
    least = min(cost[list(chosen)].sum() for chosen in answers if weights[list(chosen)].sum() <= limit)
    return program, cost, least
