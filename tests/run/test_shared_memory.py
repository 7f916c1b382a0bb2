"""Collectives through shared memory: every kind and dtype, the same bits everywhere, and failures that name a rank."""

import math
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import init_device_mesh

import shardwright as sw
from shardwright.program.torch_private import carrier_of
from shardwright.run import shared_memory
from shardwright.run.launch import launch
from shardwright.run.transport import BACKEND
from tests.support.ranks import on_ranks

pytestmark = pytest.mark.ranks

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, *FLOAT8),
    *(torch.bool, torch.complex32, torch.complex64, torch.complex128),
    *(torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64),
)
MOVED = (*DTYPES, torch.float8_e8m0fnu)
SLOT = 64 << 10
SIZES = (0, 1, 7, 16 << 10, 100_003)
"""Elements: none, few, one round, several rounds and a rest."""


def group_of(slot=SLOT):
    """A group of all ranks whose slots are small, so that small tensors take several rounds."""
    shared_memory.SLOT_BYTES = shared_memory._LEAST_SLOT_BYTES = slot
    group = dist.new_group(backend=BACKEND)
    assert carrier_of(group) == carrier_of(dist.group.WORLD) == BACKEND
    return group


def drawn(dtype, size, rank):
    draw = torch.Generator().manual_seed(rank)
    values = torch.randn(size, generator=draw, dtype=torch.float64) * 3
    if dtype.is_complex:
        return torch.complex(values, values.flip(0)).to(dtype)
    if dtype == torch.bool:
        return values > 0
    return values.abs().to(dtype) if not dtype.is_signed else values.to(dtype)


def summed(parts):
    """In rank order; narrow numbers in 32 bits, rounded once; whether any is true."""
    dtype = parts[0].dtype
    wide = dict.fromkeys((torch.bfloat16, torch.float16, *FLOAT8), torch.float32) | {torch.complex32: torch.complex64}
    if dtype == torch.bool:
        return torch.stack(parts).any(0)
    # torch adds no unsigned numbers of 16 bits and more; modulo their range, sums of signed ones are the same.
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(dtype)
    held = [part.view(signed) if signed else part.to(wide.get(dtype, dtype)) for part in parts]
    total = held[0].clone()
    for one in held[1:]:
        total += one
    return total.view(dtype) if signed else total.to(dtype)


def same(found, wanted):
    return found.shape == wanted.shape and found.dtype == wanted.dtype and bytes_of(found) == bytes_of(wanted)


def bytes_of(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def every_collective(rank, num_ranks):
    group = group_of()
    ranks = range(num_ranks)
    wrong = []
    for dtype in MOVED:
        for size in SIZES:
            parts = [drawn(dtype, size * num_ranks, r) for r in ranks]
            mine = parts[rank]
            gathered = mine.new_empty(num_ranks * mine.numel())
            dist.all_gather_into_tensor(gathered, mine, group=group)
            swapped = torch.empty_like(mine)
            dist.all_to_all_single(swapped, mine, group=group)
            sent = mine.clone()
            dist.broadcast(sent, num_ranks - 1, group=group)
            checks = {
                "all_gather": (gathered, torch.cat(parts)),
                "all_to_all": (swapped, torch.cat([p.chunk(num_ranks)[rank] for p in parts]) if size else mine),
                "broadcast": (sent, parts[-1]),
            }
            if dtype in DTYPES:
                total = mine.clone()
                dist.all_reduce(total, group=group)
                share = mine.new_empty(size)
                dist.reduce_scatter_tensor(share, mine, group=group)
                wanted = summed(parts)
                checks["all_reduce"] = total, wanted
                checks["reduce_scatter"] = share, wanted.chunk(num_ranks)[rank] if size else wanted
            wrong += [f"{k} of {size} {dtype}" for k, (a, b) in checks.items() if not same(a, b)]
    dist.barrier(group=group)
    return wrong


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_every_collective_of_every_dtype(num_ranks):
    assert on_ranks(num_ranks, every_collective, num_ranks) == [[]] * num_ranks


def special_values(rank, num_ranks):
    group = group_of()
    found = {}
    for name, op in (("max", dist.ReduceOp.MAX), ("min", dist.ReduceOp.MIN), ("product", dist.ReduceOp.PRODUCT)):
        for dtype in (torch.float32, torch.bfloat16, torch.int64):
            x = torch.tensor([1 + rank, 5 - rank, -2, 3]).to(dtype)
            if dtype.is_floating_point and rank == 1:
                x[2] = math.nan
            dist.all_reduce(x, op, group=group)
            found[name, str(dtype)] = x.tolist()
    uneven = torch.arange(6.0) + 10 * rank
    takes = [[1, 5], [5, 1]][rank]
    received = torch.empty(sum([[1, 5], [5, 1]][r][rank] for r in range(2)))
    dist.all_to_all_single(received, uneven, [[1, 5], [5, 1]][rank], takes, group=group)
    strided = (torch.arange(8.0).reshape(2, 4).t() + rank)[::2]
    dist.all_reduce(strided, group=group)
    average = torch.tensor([1.0 + rank])
    dist.all_reduce(average, dist.ReduceOp.AVG, group=group)
    return found, received.tolist(), strided.tolist(), average.item()


def test_extremes_keep_nans_and_any_layout_of_memory_is_taken():
    for rank, (found, received, strided, average) in enumerate(on_ranks(2, special_values, 2)):
        for dtype in ("torch.float32", "torch.bfloat16"):
            assert found["max", dtype][:2] == [2.0, 5.0]
            assert math.isnan(found["max", dtype][2])
            assert found["min", dtype][:2] == [1.0, 4.0]
            assert math.isnan(found["min", dtype][2])
        assert found["max", "torch.int64"] == [2, 5, -2, 3]
        assert found["product", "torch.int64"] == [2, 20, 4, 9]
        assert received == ([0.0, 10.0, 11.0, 12.0, 13.0, 14.0] if rank == 0 else [1.0, 2.0, 3.0, 4.0, 5.0, 15.0])
        assert strided == [[1.0, 9.0], [5.0, 13.0]]
        assert average == 1.5


def rooted_uneven_and_single(rank, num_ranks):
    """What has a root, parts of unequal length, objects, and single messages, which go another way."""
    group, ranks = group_of(), range(num_ranks)
    root, size = num_ranks - 1, 30_000
    mine = torch.arange(size) * (rank + 1)
    gathered = [torch.empty(size, dtype=torch.int64) for _ in ranks] if rank == root else None
    dist.gather(mine, gathered, root, group=group)
    if rank == root:
        assert all(torch.equal(gathered[r], torch.arange(size) * (r + 1)) for r in ranks)
    share = torch.empty(size)
    dist.scatter(share, [torch.full((size,), float(r)) for r in ranks] if rank == root else None, root, group=group)
    assert share.unique().tolist() == [rank]
    total = mine.clone()
    dist.reduce(total, root, group=group)
    assert torch.equal(total, torch.arange(size) * sum(r + 1 for r in ranks) if rank == root else mine)
    sizes = [40_000 * r + 1 for r in ranks]
    whole = [torch.empty(one) for one in sizes]
    dist.all_gather(whole, torch.full((sizes[rank],), float(rank)), group=group)
    assert [one.unique().tolist() for one in whole] == [[float(r)] for r in ranks]
    summed = torch.empty(sizes[rank])
    dist.reduce_scatter(summed, [torch.full((one,), float(rank)) for one in sizes], group=group)
    assert summed.unique().tolist() == [float(sum(ranks))]
    rows = [[(3 * a + b) % 5 * 2_000 for b in ranks] for a in ranks]
    received = torch.empty(sum(rows[r][rank] for r in ranks), 3)
    sent = torch.cat([torch.full((rows[rank][r], 3), 10.0 * rank + r) for r in ranks])
    dist.all_to_all_single(received, sent, [rows[r][rank] for r in ranks], rows[rank], group=group)
    assert torch.equal(received, torch.cat([torch.full((rows[r][rank], 3), 10.0 * r + rank) for r in ranks]))
    listed = [torch.empty(2) for _ in ranks]
    dist.all_to_all(listed, [torch.tensor([rank, r]).float() for r in ranks], group=group)
    assert [one.tolist() for one in listed] == [[r, rank] for r in ranks]
    said = [None] * num_ranks
    dist.all_gather_object(said, {"rank": rank}, group=group)
    assert said == [{"rank": r} for r in ranks]
    ring = torch.empty(3)
    receiving = dist.irecv(ring, (rank - 1) % num_ranks)
    dist.send(torch.full((3,), float(rank)), (rank + 1) % num_ranks)
    receiving.wait()
    assert ring.unique().tolist() == [(rank - 1) % num_ranks]


def test_roots_uneven_parts_objects_and_single_messages():
    on_ranks(3, rooted_uneven_and_single, 3)


def overlapping(rank):
    """Two groups of the same ranks, called in another order on every rank, and waited for in another still."""
    first, second = group_of(), group_of()
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


def in_any_order(rank, num_ranks):
    """Kinds and lengths drawn alike on all ranks: what one call leaves in the memory is not taken for another's."""
    group, draw = group_of(), random.Random(0)
    ranks = range(num_ranks)
    for turn in range(150):
        kind, size = draw.randrange(5), draw.choice((1, 3, 1_000, 20_000, 70_000))
        parts = [torch.full((size,), 100.0 * turn + r) for r in ranks]
        if kind == 0:
            found = parts[rank].clone()
            dist.all_reduce(found, group=group)
            wanted = sum(parts)
        elif kind == 1:
            found = torch.empty(size * num_ranks)
            dist.all_gather_into_tensor(found, parts[rank], group=group)
            wanted = torch.cat(parts)
        elif kind == 2:
            found = torch.empty(size)
            dist.reduce_scatter_tensor(found, parts[rank].repeat(num_ranks), group=group)
            wanted = sum(parts)
        elif kind == 3:
            found, root = parts[rank].clone(), turn % num_ranks
            dist.broadcast(found, root, group=group)
            wanted = parts[root]
        else:
            found = torch.empty(size * num_ranks)
            dist.all_to_all_single(found, parts[rank].repeat(num_ranks), group=group)
            wanted = torch.cat(parts)
        assert torch.equal(found, wanted), (turn, kind, size)


def test_kinds_and_lengths_in_any_order_and_more_ranks_than_processors():
    on_ranks(6, in_any_order, 6)


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


def test_without_a_home_folder_there_is_a_reason(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shared_memory.prepare() == "this user has no home folder, where the compiled backend is kept"


def disagreeing(rank):
    group = group_of()
    messages = []
    for call in (
        lambda: dist.all_reduce(torch.ones(4 + rank), group=group),
        # A group that has failed once fails for good, in the same words.
        lambda: dist.barrier(group=group),
    ):
        with pytest.raises(RuntimeError) as raised:
            call()
        messages.append(str(raised.value))
    fresh, received = group_of(), [[1, 2], [2, 2]][rank]
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


def ill_fitting(rank):
    """Calls that are refused before any memory is touched, on every rank; the group goes on."""
    group, x = group_of(), torch.ones(4)
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
