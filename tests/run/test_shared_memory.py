"""Collectives through shared memory, as torch calls them: overlapping, compiled, of several jobs, and refused."""

import re
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import init_device_mesh

from shardwright.program.torch_private import carrier_of
from shardwright.run import shared_memory
from shardwright.run.transport import BACKEND
from tests.support.ranks import on_ranks, small_group

pytestmark = pytest.mark.ranks


def overlapping(rank):
    """Two groups of the same ranks, called in another order on every rank, and waited for in another still."""
    first, second = small_group(), small_group()
    x, y, z = (torch.full((n,), rank + 1.0) for n in (5, 50_000, 7))
    calls = [
        lambda: dist.all_reduce(x, group=first, async_op=True),
        lambda: dist.all_reduce(y, group=second, async_op=True),
    ]
    works = [call() for call in (calls if rank else calls[::-1])]
    works.append(dist.all_reduce(z, group=first, async_op=True))
    works[2].wait()
    for work in works:
        work.wait()
        assert work.is_completed()
    assert [one.unique().tolist() for one in (x, y, z)] == [[3.0]] * 3
    if rank == 0:
        work = dist.broadcast(x, 0, group=first, async_op=True)
        early = work.is_completed()
        dist.send(torch.ones(1), 1)
        assert work.get_future().wait()[0] is not None
        return early
    # The other rank has made its call, and goes on although this one has not.
    dist.recv(torch.empty(1), 0)
    dist.broadcast(x, 0, group=first)
    return False


def test_a_call_returns_before_the_others_come_and_is_done_when_it_is_waited_for():
    assert on_ranks(2, overlapping) == [False, False]


class Twice(torch.nn.Module):
    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, x):
        total = functional.all_reduce(x.sin(), "sum", self.group)
        return (
            functional.all_gather_single(total * 2, 0, self.group) + functional.all_reduce(x, "max", self.group).sum()
        )


def through_functional_collectives(rank):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    found = {}
    for axis in ("dp", "tp"):
        group = mesh.get_group(axis)
        assert carrier_of(group) == BACKEND
        peers = dist.get_process_group_ranks(group)
        x = torch.arange(6.0) + rank
        total = sum((torch.arange(6.0) + peer).sin() for peer in peers) * 2
        wanted = torch.cat([total, total]) + (torch.arange(6.0) + max(peers)).sum()
        for model in (Twice(group), torch.compile(Twice(group), fullgraph=True)):
            for _ in range(3):
                torch.testing.assert_close(model(x), wanted)
        found[axis] = peers
    return found


def test_functional_collectives_eager_and_compiled_on_sub_groups_of_a_mesh():
    assert on_ranks(4, through_functional_collectives) == [
        {"dp": [0 + r % 2, 2 + r % 2], "tp": [r // 2 * 2, r // 2 * 2 + 1]} for r in range(4)
    ]


def of_a_job(rank, job):
    for turn in range(100):
        x = torch.full((turn * 211 + 1,), float(rank + 10 * job))
        dist.all_reduce(x)
        assert x.unique().tolist() == [1.0 + 20 * job]


def test_two_jobs_at_once():
    failures = []

    def run(job):
        try:
            on_ranks(2, of_a_job, job)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_group_of_any_number_of_ranks_fits_into_64_mb():
    assert shared_memory.prepare() == ""
    sizes = [shared_memory.extension().bytes(n, shared_memory._slot_bytes(n)) for n in range(1, 257)]
    assert max(sizes) <= 34 << 20


def with_a_result_that_cannot_be_written(rank):
    with pytest.raises(RuntimeError, match="single memory location"):
        dist.all_reduce(torch.full((1,), float(rank)).expand(4))
    x = torch.full((4,), float(rank))
    dist.all_reduce(x)
    return x.tolist()


def test_a_result_that_cannot_be_written_is_an_error_and_the_next_call_is_right():
    assert on_ranks(2, with_a_result_that_cannot_be_written) == [[1.0] * 4] * 2


def test_what_is_compiled_again_when_it_changes_is_all_that_is_included():
    sources = {path.name: path.read_text() for path in shared_memory._SOURCES}
    included = {name for text in sources.values() for name in re.findall(r'^#include "(.*)"', text, re.MULTILINE)}
    assert included == {name for name in sources if name.endswith(".h")}


def test_without_a_home_folder_there_is_a_reason(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shared_memory.prepare() == "this user has no home folder, where compiled libraries are kept"


def ill_fitting(rank):
    """Calls that are refused before any memory is touched, on every rank; the group goes on."""
    group, x = small_group(), torch.ones(4)
    calls = [
        lambda: dist.all_gather_into_tensor(torch.empty(7), x, group=group),
        lambda: dist.all_gather_into_tensor(torch.empty(8, dtype=torch.int32), x, group=group),
        lambda: dist.all_gather([torch.empty(4), torch.empty(5)][:: 1 if rank else -1], x, group=group),
        lambda: dist.reduce_scatter_tensor(torch.empty(3), x, group=group),
        lambda: dist.all_to_all_single(torch.empty(4), x, [1, 2], [2, 2], group=group),
        lambda: dist.all_to_all_single(torch.empty(3), torch.ones(3), group=group),
        lambda: dist.all_to_all_single(torch.empty(4), x, [-1, 5], [2, 2], group=group),
        lambda: dist.all_reduce(torch.ones(4, dtype=torch.complex64), dist.ReduceOp.MAX, group=group),
        lambda: dist.all_reduce(torch.ones(4, dtype=torch.float8_e8m0fnu), group=group),
        lambda: dist.all_reduce(torch.ones(4, dtype=torch.int32), dist.ReduceOp.AVG, group=group),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            call()
    dist.all_reduce(x, group=group)
    assert x.tolist() == [2.0] * 4


def test_lengths_and_dtypes_are_checked_against_the_buffers():
    on_ranks(2, ill_fitting)


def requiring_gradients(rank):
    x = torch.ones(4, 4, requires_grad=True)
    dist.all_reduce(x.detach().t())
    with torch.inference_mode():
        y = torch.ones(4, 4)
    dist.all_reduce(y[:, ::2])
    return x.tolist(), y.tolist()


def test_parameters_and_inference_tensors_are_taken():
    assert on_ranks(2, requiring_gradients) == [([[2.0] * 4] * 4, [[2.0, 1.0] * 2] * 4)] * 2
