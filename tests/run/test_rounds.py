"""Every kind of collective, every dtype, in one round and in many: the same bits everywhere."""

import math
import random

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import on_ranks, small_group

pytestmark = pytest.mark.ranks


FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)

DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, *FLOAT8),
    *(torch.bool, torch.complex32, torch.complex64, torch.complex128),
    *(torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64),
)

MOVED = (*DTYPES, torch.float8_e8m0fnu)

SIZES = (0, 1, 7, 16 << 10, 100_003)
"""Elements: none, few, one round, several rounds and a rest."""


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
    group = small_group()
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
    group = small_group()
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
    group, ranks = small_group(), range(num_ranks)
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


def in_any_order(rank, num_ranks):
    """Kinds and lengths drawn alike on all ranks: what one call leaves in the memory is not taken for another's."""
    group, draw = small_group(), random.Random(0)
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
