"""A call that failed on one rank alone is not followed by one whose collectives the others would take for it."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import shardwright as sw
from shardwright.run.in_step import in_step
from tests.support.ranks import on_ranks

PLAN = {"0": "colwise", "2": "rowwise"}


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def failing(module, x, *, here=True):
    """A call that fails in the middle, before the program communicates, where it is to fail ``here``."""

    def fail(*_):
        if here:
            raise MemoryError("too large")

    hook = module.module.register_forward_pre_hook(fail)
    try:
        return outcome(module, x)
    finally:
        hook.remove()


def after_failures(rank, folder, x):
    module, other = (sw.load(folder, transport="shared_memory", timeout_s=3) for _ in range(2))
    found = [outcome(module, x[:, :3]), module(x), failing(module, x), other(2 * x), module(x)]
    # Rank 0 alone has too little memory; rank 1 waits for it in the call's all-reduce.
    return [*found, failing(module, x, here=rank == 0), outcome(other, 2 * x), outcome(module, x)]


@pytest.mark.ranks
def test_ranks_that_failed_alike_go_on_and_others_do_not(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)).eval().requires_grad_(False)
    x = torch.randn(4, 8)
    sw.shard(torch.export.export(model, (x,)), mesh=2, plan=PLAN).save(tmp_path / "p")
    for rank, found in enumerate(on_ranks(2, after_failures, str(tmp_path / "p"), x)):
        refused, *right = found[:5]
        assert refused.startswith("InputError")
        assert right[1] == "MemoryError: too large"
        torch.testing.assert_close([right[0], right[2], right[3]], [model(x), model(2 * x), model(x)])
        alone, next_one, last = found[5:]
        assert ("too large" in alone) if rank == 0 else ("RunError" not in alone and "Error" in alone)
        for answer in (next_one, last):
            assert answer.startswith(f"RunError: a call failed on rank {rank}")
            assert "start them again" in answer


def fail():
    with in_step():
        raise MemoryError


def call():
    with in_step(timedelta(seconds=1)):
        return "goes on"


def one_comes_late(rank):
    """Both fail alike; rank 1 comes to its next call only when rank 0's has been refused, and rank 0 tries again."""
    store = dist.PrefixStore("late", dist.group.WORLD.get_group_store())
    outcome(fail)
    if rank == 0:
        found = [outcome(call)]
        store.set("refused", "")
        store.wait(["gone on"])
        return [*found, outcome(call)]
    store.wait(["refused"])
    found = [outcome(call)]
    store.set("gone on", "")
    return found


@pytest.mark.ranks
def test_a_call_that_was_refused_is_not_taken_back():
    (refused, again), late = on_ranks(2, one_comes_late, backend="gloo")
    assert refused.startswith("RunError: a call failed on rank 0")
    assert again.startswith("RunError: a call failed on rank 0")
    assert late == ["goes on"]


def test_ranks_that_are_only_thought_of_are_not_waited_for():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        assert outcome(fail).startswith("MemoryError")
        assert call() == "goes on"
    finally:
        dist.destroy_process_group()


def one_is_refused(rank, folder, x):
    """Rank 0 alone asks for a gradient, which is refused; rank 1 waits for it in the call's all-reduce."""
    module = sw.load(folder, transport="shared_memory", timeout_s=3)
    return [outcome(module, x.requires_grad_(rank == 0)), outcome(module, (2 * x).detach())]


@pytest.mark.ranks
def test_a_gradient_that_one_rank_alone_asks_for(tmp_path):
    model, x = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)).eval(), torch.randn(4, 8)
    sw.shard(torch.export.export(model, (x,)), mesh=2, plan=PLAN).save(tmp_path / "p")
    found = on_ranks(2, one_is_refused, str(tmp_path / "p"), x)
    assert found[0][0].startswith("InputError")
    for rank, (_, next_one) in enumerate(found):
        assert next_one.startswith(f"RunError: a call failed on rank {rank}")
