"""The solver's problem against every assignment there is, priced by hand."""

import itertools
import random
from dataclasses import replace

import pytest

from shardwright.assign.cost import has_collective
from shardwright.assign.milp import solve
from shardwright.assign.problem import byte_limit, byte_ranges
from shardwright.layout.layout import REPLICATE
from tests.support.drawn_problems import drawn


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


@pytest.mark.parametrize("seed", range(60))
def test_the_least_time_within_the_bytes_that_a_rank_may_hold(seed):
    dice = random.Random(seed)
    problem = drawn(seed)
    sites = []
    for site in problem.sites:
        # What reads nothing is a weight.
        sizes = [0 if one.operands else dice.choice((0, 100, 130, 400)) for one in site.strategies]
        sites.append(replace(site, weight_bytes=sizes))
    problem = replace(problem, sites=sites, auto=True, slack=0.5)
    limit = byte_limit(byte_ranges(problem), problem.slack)

    def held(chosen):
        return sum(site.weight_bytes[one] for site, one in zip(sites, chosen, strict=True))

    def time_us(chosen):
        return price(problem, chosen) + sum(site.work_us[one] for site, one in zip(sites, chosen, strict=True))

    found = solve(problem)
    choices = itertools.product(*(range(len(site.strategies)) for site in sites))
    least = min(time_us(chosen) for chosen in choices if held(chosen) <= limit)
    assert held(found.chosen) <= limit
    assert time_us(found.chosen) == pytest.approx(least, rel=1e-5, abs=0.02)
