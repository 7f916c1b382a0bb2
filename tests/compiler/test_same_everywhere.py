"""The same program, plan, mesh and versions give the same bits in any process, under any load."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext

import pytest
import torch

import shardwright as sw
from shardwright.assign import effort
from tests.support import same_everywhere
from tests.support.same_everywhere import LITTLE, MORE


def process(*args, seed=0):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": str(1 + seed % 2)}
    return subprocess.Popen([sys.executable, *args], env=environment, stdout=subprocess.PIPE, text=True)


@contextmanager
def interrupted(processes):
    """The processes have a core half of the time, in turns of no fixed length, as on a machine that is busy."""
    lengths, over = random.Random(0), threading.Event()

    def interrupt():
        while not over.is_set():
            for what in (signal.SIGSTOP, signal.SIGCONT):
                for one in processes:
                    one.send_signal(what)
                over.wait(lengths.uniform(0.01, 0.1))

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def results(path, seeds, meanwhile=nullcontext):
    started = [process("-m", "tests.support.same_everywhere", path, seed=seed) for seed in seeds]
    with meanwhile(started):
        return [json.loads(one.communicate()[0]) for one in started]


@pytest.mark.ranks
def test_processes_find_the_same_whatever_their_hash_seeds_threads_and_load(tmp_path):
    path = str(tmp_path / "unet.pt2")
    torch.export.save(same_everywhere.exported(), path)
    first, second = results(path, [0, 1])
    others = results(path, [2, 3], interrupted)
    for other in (second, *others):
        assert other == first
    gaps = {
        effort: [float.fromhex(one["gap"]) for one in first["unet"] if one["effort"] == effort]
        for effort in (LITTLE, MORE)
    }
    assert max(gaps[LITTLE]) > 1e-3, "some search ended early"
    assert max(gaps[MORE]) < 1e-3


def test_a_time_limit_that_strikes_says_so(monkeypatch):
    program = torch.export.export(torch.nn.Linear(4, 4), (torch.randn(2, 4),))
    with pytest.raises(sw.AssignmentError, match="no assignment before the time limit"):
        sw.shard(program, mesh=2, time_limit_s=1e-9)
    assert not sw.shard(program, mesh=2).hit_time_limit
    assert not sw.shard(program, mesh=2, time_limit_s=600).hit_time_limit

    def struck(time_limit_s):
        clock = effort.Clock(time.monotonic() + time_limit_s)
        clock.has_struck = True
        return clock

    monkeypatch.setattr(effort.Clock, "of", struck)
    with pytest.warns(sw.SolverWarning, match="the time limit of 600 s ended the solver"):
        assert sw.shard(program, mesh=2, time_limit_s=600).hit_time_limit


@pytest.mark.parametrize("wrong", [{"effort": 0}, {"effort": float("nan")}, {"effort": -1}, {"time_limit_s": 0}])
def test_effort_and_limits_that_are_none_are_refused(wrong):
    program = torch.export.export(torch.nn.Linear(4, 4), (torch.randn(2, 4),))
    with pytest.raises(sw.ShardwrightError, match=rf"{next(iter(wrong))}.* must be a number greater than 0"):
        sw.shard(program, mesh=2, **wrong)
