"""Ranks that meet: one that waits sleeps, one that goes wrong is named, and so are those that do not agree."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import shardwright as sw
from shardwright.run.launch import launch
from tests.support.ranks import on_ranks, small_group

pytestmark = pytest.mark.ranks


def wait_until_the_other_sleeps(rank):
    """Rank 1 comes to a barrier once rank 0, which waits there, has slept through fifty looks at it in a row."""
    processes = [torch.zeros(1, dtype=torch.long) for _ in range(2)]
    dist.all_gather(processes, torch.tensor([os.getpid()]))
    asleep = 0
    for _ in range(3000 if rank == 1 else 0):
        state = Path(f"/proc/{processes[0].item()}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
        if asleep == 50:
            break
        time.sleep(0.01)
    dist.barrier()
    return asleep


def test_a_rank_that_waits_sleeps():
    """One that spun would run, or want to, at every look."""
    assert on_ranks(2, wait_until_the_other_sleeps) == [0, 50]


def disagreeing(rank):
    group = small_group()
    messages = []
    for call in (
        lambda: dist.all_reduce(torch.ones(4 + rank), group=group),
        # A group that has failed once fails for good, in the same words.
        lambda: dist.barrier(group=group),
    ):
        with pytest.raises(RuntimeError) as raised:
            call()
        messages.append(str(raised.value))
    fresh, received = small_group(), [[1, 2], [2, 2]][rank]
    with pytest.raises(RuntimeError) as raised:
        # Rank 0 sends three rows, where rank 1 expects two.
        dist.all_to_all_single(torch.empty(sum(received)), torch.ones(4), received, [[1, 3], [2, 2]][rank], group=fresh)
    return [*messages, str(raised.value)]


def test_ranks_that_do_not_agree_are_told():
    for first, later, exchange in on_ranks(2, disagreeing):
        for said in (first, later):
            assert said.startswith(
                "the ranks of a group meet at different collectives: rank 0 at all_reduce of Float, 16"
            )
            assert "rank 1 at all_reduce of Float, 20 bytes" in said
        assert exchange.startswith("all_to_all: rank 0 sends 12 bytes to rank 1, which expects 8")


def meet_after(what, victims):
    dist.all_reduce(torch.ones(1))
    if dist.get_rank() in victims:
        what()
    dist.all_reduce(torch.ones(100_000))


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_running():
    os.kill(os.getpid(), signal.SIGSTOP)


def give_up():
    raise sw.InputError("the input is wrong")


FAILURES = {
    "is killed": (be_killed, [1], "rank 1 failed: Signal 9"),
    "all are killed": (be_killed, [0, 1], "rank [01] failed: Signal 9"),
    "stops": (stop_running, [1], "waited 5 s .*: rank 1 (has not run|stopped before)"),
    "raises": (give_up, [1], "rank 1 failed: InputError: the input is wrong"),
}


@pytest.mark.parametrize(("what", "victims", "says"), FAILURES.values(), ids=FAILURES)
def test_a_rank_that_goes_wrong_is_named_and_leaves_nothing(what, victims, says):
    before = set(Path("/dev/shm").iterdir())
    with pytest.raises(sw.RunError, match=says):
        launch(2, meet_after, what, victims, timeout_s=5, transport="shared_memory")
    assert {path for path in set(Path("/dev/shm").iterdir()) - before if "shardwright" in path.name} == set()
