"""Collectives through shared memory: every kind and dtype, the same bits everywhere, and failures that name a rank."""

import math
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import shardwright as sw
from shardwright.layout.mesh import Mesh
from shardwright.run import shared_memory
from shardwright.run.groups import make_group_objects
from shardwright.run.launch import launch
from tests.support.ranks import on_ranks

pytestmark = pytest.mark.ranks

DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.complex64, torch.complex128),
    *(torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64),
)
MOVED = (*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)
SLOT = 64 << 10
SIZES = (0, 1, 7, 16 << 10, 100_003)
"""Elements: none, few, one round, several rounds and a rest."""


def group_of(num_ranks, slot=SLOT, timeout_s=None):
    shared_memory.SLOT_BYTES = slot
    group = make_group_objects(Mesh.of(num_ranks), transport="shared_memory", timeout_s=timeout_s)["tp"]
    assert dist.get_backend(group) == shared_memory.BACKEND
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
    """In rank order; 16-bit numbers in 32 bits, rounded once; whether any is true."""
    dtype = parts[0].dtype
    wide = {torch.bfloat16: torch.float32, torch.float16: torch.float32}.get(dtype, dtype)
    if dtype == torch.bool:
        return torch.stack(parts).any(0)
    # torch adds no unsigned numbers of 16 bits and more; modulo their range, sums of signed ones are the same.
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(dtype)
    held = [part.view(signed) if signed else part.to(wide) for part in parts]
    total = held[0].clone()
    for one in held[1:]:
        total += one
    return total.view(dtype) if signed else total.to(dtype)


def same(found, wanted):
    return found.shape == wanted.shape and found.dtype == wanted.dtype and bytes_of(found) == bytes_of(wanted)


def bytes_of(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def every_collective(rank, num_ranks):
    group = group_of(num_ranks)
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
    group = group_of(num_ranks)
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


def two_axes(rank):
    mesh = Mesh.of({"dp": 2, "tp": 2})
    groups = make_group_objects(mesh, transport="shared_memory")
    found = []
    for turn in range(50):
        for axis in ("dp", "tp"):
            x = torch.full((turn * 97 + 1,), float(rank))
            dist.all_reduce(x, group=groups[axis])
            found.append(x.unique().tolist())
    return found


def test_several_groups_at_once_and_more_ranks_than_processors():
    for rank, found in enumerate(on_ranks(4, two_axes)):
        dp, tp = rank % 2 + (rank % 2 + 2), 2 * (rank // 2) * 2 + 1
        assert found == [[float(dp)], [float(tp)]] * 50


def disagreeing(rank):
    group = group_of(2)
    messages = []
    try:
        x = torch.ones(4 + rank)
        dist.all_reduce(x, group=group)
    except RuntimeError as error:
        messages.append(str(error))
    try:
        dist.barrier(group=group)
    except RuntimeError as error:
        messages.append(str(error))
    return messages


def test_ranks_that_call_different_collectives_are_told():
    wanted = "the ranks of a group meet at different collectives: rank 0 at all_reduce of Float, 16 bytes"
    for first, *_ in on_ranks(2, disagreeing):
        assert first.startswith(wanted)
        assert "rank 1 at all_reduce of Float, 20 bytes" in first


def meet_after(what, victim):
    group = group_of(2)
    dist.all_reduce(torch.ones(1), group=group)
    if dist.get_rank() == victim:
        what()
    dist.all_reduce(torch.ones(100_000), group=group)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_running():
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize(
    ("what", "says"),
    [(be_killed, "rank 1 failed: Signal 9"), (stop_running, "waited 5 s .*: rank 1 (has not run|stopped before)")],
)
def test_a_rank_that_dies_or_stops_is_named_and_leaves_nothing(what, says):
    before = set(Path("/dev/shm").iterdir())
    with pytest.raises(sw.RunError, match=says):
        launch(2, meet_after, what, 1, timeout_s=5)
    assert {path for path in set(Path("/dev/shm").iterdir()) - before if "shardwright" in path.name} == set()


def without(rank, how):
    """The backend of an axis's group where one rank cannot or will not use memory."""
    os.environ[shared_memory.TRANSPORT_SWITCH] = "auto"
    if how == "forbidden" and rank == 1:
        os.environ[shared_memory.TRANSPORT_SWITCH] = "gloo"
    if how == "no compiler" and rank == 1:
        os.environ["CXX"] = "no-such-compiler"
        os.environ["XDG_CACHE_HOME"] = "/nonexistent"
    if how == "no memory" and rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    lines = []
    shared_memory._LOG.addFilter(lambda record: lines.append(record.getMessage()))
    transport = shared_memory.chosen_transport(None)
    group = make_group_objects(Mesh.of(2), transport=transport)["tp"]
    x = torch.ones(3)
    dist.all_reduce(x, group=group)
    wanted = ""
    try:
        make_group_objects(Mesh.of(2), transport="gloo" if transport == "gloo" else "shared_memory")
    except sw.RunError as error:
        wanted = str(error)
    return dist.get_backend(group), x.tolist(), lines, wanted


REASONS = {"forbidden": "", "no compiler": "rank 1: .*no-such-compiler", "no memory": "rank 0 has too little memory"}


@pytest.mark.parametrize("how", REASONS)
def test_gloo_stands_in_and_one_line_says_why(how):
    found = on_ranks(2, without, how)
    assert [(backend, values) for backend, values, _, _ in found] == [("gloo", [2.0, 2.0, 2.0])] * 2
    lines = found[0][2]
    if REASONS[how]:
        (line,) = lines
        assert line.startswith("collectives use gloo, not shared memory: ")
    else:
        assert lines == []
    asked = found[0][3]
    assert asked.startswith("ranks cannot communicate through shared memory: ")
    assert (REASONS[how] or "rank 1 asks for gloo").split(":")[0] in asked


def test_an_unknown_transport_is_an_error_with_the_known_ones():
    with pytest.raises(sw.RunError, match="there is no transport 'mpi'\n  try: auto, shared_memory, gloo"):
        shared_memory.chosen_transport("mpi")
