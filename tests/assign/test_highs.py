"""Calls of HiGHS: beside other users of the library in the process, and what is said where it fails."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import highspy
import numpy as np
import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.assign import highs, integer_program
from shardwright.assign.effort import Budget

INTERRUPTER = highs.Interrupter(Budget(), 1, has_answer=False)
PLAN = {"0": "colwise", "2": "rowwise"}


class Quiet(highspy.Highs):
    """HiGHS 1.16 prints a banner before an option can be set."""

    def enableCallbacks(self):
        self.silent()
        super().enableCallbacks()


def somebody_elses_solve(threads):
    """A knapsack solved by another user of the library."""
    solver = Quiet()
    solver.setOptionValue("threads", threads)
    solver.addVars(3, np.zeros(3), np.ones(3))
    solver.changeColsIntegrality(3, np.arange(3, dtype=np.int32), np.full(3, 1, dtype=np.uint8))
    solver.changeColsCost(3, np.arange(3, dtype=np.int32), np.array([-3.0, -4.0, -2.0]))
    solver.addRow(-highspy.kHighsInf, 5.0, 3, np.arange(3, dtype=np.int32), np.array([2.0, 3.0, 1.0]))
    assert solver.run() == highspy.HighsStatus.kOk
    return solver.getInfo().objective_function_value


@pytest.fixture(scope="module")
def program():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    batch = torch.export.Dim("batch", max=64)
    return torch.export.export(model, (torch.randn(4, 16),), dynamic_shapes=({0: batch},))


def texts(sharded):
    return [str(sharded.exported(rank)) for rank in range(sharded.mesh.num_ranks)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shard_and_another_user_of_highs_do_not_meet(program, threads):
    def both():
        before = somebody_elses_solve(threads)
        found = texts(sw.shard(program, mesh=2, plan=PLAN))
        # Their pool is as they left it.
        return before, somebody_elses_solve(threads), found

    with ThreadPoolExecutor(1) as pool:  # HiGHS keeps its pool for the thread's life
        before, after, found = pool.submit(both).result()
    assert before == after == -7.0
    assert found == texts(sw.shard(program, mesh=2, plan=PLAN))


def test_threads_shard_one_program_at_once(program):
    alone = {
        (plan, ranks): texts(sw.shard(program, mesh=ranks, plan=plan or PLAN))
        for plan in ("auto", "")
        for ranks in (2, 3)
    }
    gate, stop = threading.Barrier(4), threading.Event()

    def beside():
        while not stop.is_set():
            assert somebody_elses_solve(2) == -7.0

    def work(case):
        gate.wait()
        return texts(sw.shard(program, mesh=case[1], plan=case[0] or PLAN))

    with ThreadPoolExecutor(5) as pool:
        other = pool.submit(beside)
        try:
            assert dict(zip(alone, pool.map(work, alone), strict=True)) == alone
        finally:
            stop.set()
        other.result()


def test_threads_take_the_ranks_of_one_result(program):
    sharded = sw.shard(program, mesh=4, plan=PLAN)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rank: str(sharded.exported(rank)), range(4)))
    assert found == texts(sw.shard(program, mesh=4, plan=PLAN))


def test_an_option_that_highs_does_not_know_is_named():
    with pytest.raises(highs.NoAnswerError, match="did not take the option thread=1"):
        highs._solved(highspy.HighsLp(), np.zeros(0), {"thread": 1}, INTERRUPTER)


def test_a_run_that_highs_refuses_is_no_lack_of_time():
    def refused():
        somebody_elses_solve(2)
        highs._solved(highspy.HighsLp(), np.zeros(0), {"threads": 1}, INTERRUPTER)

    with ThreadPoolExecutor(1) as pool, pytest.raises(highs.NoAnswerError, match="refused to run"):
        pool.submit(refused).result()


@pytest.mark.parametrize(
    ("has_answer", "incumbent", "asked"), [(True, np.inf, 4), (False, 7.0, 4), (False, np.inf, 44)]
)
def test_a_search_ends_when_its_budget_is_spent_later_where_it_has_no_answer(has_answer, incumbent, asked):
    ended = []
    output = SimpleNamespace(mip_primal_bound=incumbent)
    event = SimpleNamespace(data_out=output, interrupt=lambda: ended.append(True))
    watch = highs.Interrupter(Budget(40), 10, has_answer)
    for _ in range(asked - 1):
        watch(event)
    assert not ended
    watch(event)
    assert ended
    assert f"{highs.PATIENCE} times its effort" in integer_program._no_answer(highspy.HighsModelStatus.kInterrupt)


def test_sums_do_not_depend_on_their_order():
    dice = random.Random(0)
    cost = np.array([dice.choice((1, -1)) * 10 ** dice.uniform(-8, 8) for _ in range(20_000)])
    order = np.array(dice.sample(range(len(cost)), len(cost)))
    values = np.linspace(0, 1, len(cost))
    assert highs.dot(cost, values) == highs.dot(cost[order], values[order])
