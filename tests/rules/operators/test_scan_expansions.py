"""Scans over a cut dim: the kernel's numbers, and one number a rank and row gathered."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import shardwright as sw
from shardwright.layout.cut import Blocks, Cut
from shardwright.rules.call import bind_arguments, leaves
from shardwright.rules.operators.place_expansions import CUT
from shardwright.rules.operators.scan_expansions import EXPANDED_SCANS
from shardwright.rules.registry import op_names
from tests.support.harness import ULPS
from tests.support.models import Call
from tests.support.sharding import ONLY_BYTES_MATTER

F = nn.functional
aten = torch.ops.aten
NAN, INF = float("nan"), float("inf")


def values(dtype, rows=3, size=43):
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(0))
    return (x * 3).to(dtype) if dtype != torch.bool else x > 0


def holes(number, *, also_first=False):
    x = values(torch.float64)
    x[0, 5], x[0, 30], x[1] = number, number, number
    if also_first:
        x[2, :25] = number
    return x


OPERATORS = {
    "cummax": aten.cummax.default,
    "cummin": aten.cummin.default,
    "cumprod": aten.cumprod.default,
    "cumsum": aten.cumsum.default,
    "logcumsumexp": aten.logcumsumexp.default,
}
INPUTS = {
    **{str(dtype): values(dtype) for dtype in (*ULPS, torch.int64, torch.int8, torch.bool)},
    "ties": values(torch.int64) // 4,
    "nan": holes(NAN),
    "inf": holes(INF),
    "-inf": holes(-INF, also_first=True),
}
CALLS = [
    pytest.param(op, x, id=f"{name}-{kind}")
    for name, op in OPERATORS.items()
    for kind, x in INPUTS.items()
    if name != "logcumsumexp" or x.is_floating_point()
]


@pytest.mark.parametrize(("op", "x"), CALLS)
def test_what_is_written_out_is_what_the_kernel_gives(op, x):
    name = next(name for name in op_names(op) if name in EXPANDED_SCANS)
    wanted = leaves(op(x, -1))
    for lengths in ([22, 21], [15, 15, 13], [43, 0]):
        cut = Cut.of(len(lengths), enumerate(lengths))
        found = leaves(EXPANDED_SCANS[name]({**bind_arguments(op, (x, -1), {}), CUT: cut}))
        assert [(one.shape, one.dtype) for one in found] == [(one.shape, one.dtype) for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            if not other.is_floating_point():
                assert torch.equal(one, other)
                continue
            step = ULPS[other.dtype] * torch.finfo(other.dtype).eps
            largest = other.double().abs().nan_to_num(0, 0, 0).max().item()
            torch.testing.assert_close(one, other, rtol=step, atol=step * max(largest, 1), equal_nan=True)


def test_the_table_is_alphabetical_and_tested():
    assert list(EXPANDED_SCANS) == sorted(f"aten::{name}" for name in OPERATORS)


def shard(call, x, num_ranks, layout, *, decompose=False, dynamic=None, others=()):
    """The program of a call on a cut input, its outputs cut alike; equal to the original."""
    exported = torch.export.export(Call(call), (x,), dynamic_shapes=dynamic)
    exported = exported.run_decompositions() if decompose else exported
    outputs = dict.fromkeys(range(len(exported.graph_signature.output_specs)), layout)
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs={"x": layout}, outputs=outputs, cost=ONLY_BYTES_MATTER)
    for given in (x, *others):
        report = sw.verify(sharded, exported, (given,), tolerance=1e-9)
        assert report.ok, str(report)
    for rank in range(num_ranks):
        sharded.exported(rank).validate()
    return sharded


def sent(sharded):
    return [(c.kind, c.num_bytes) for c in sharded.collectives]


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize(("op", "x"), [call for call in CALLS if "float32" not in call.id and "float16" not in call.id])
def test_one_number_a_row(op, x, num_ranks):
    # Long enough that no gather is cheaper, of truth values too.
    sharded = shard(lambda x: op(x, 1), torch.cat([x] * 4, 1), num_ranks, sw.Shard(1))
    # What is summed or multiplied of whole numbers is counted in 64 bits; extremes have places, 64 bits each.
    is_extreme = op in (OPERATORS["cummax"], OPERATORS["cummin"])
    width = 8 if x.is_floating_point() or not is_extreme else x.element_size()
    one = ("all_gather", num_ranks * 3 * width)
    assert sent(sharded) == [one, ("all_gather", num_ranks * 3 * 8)] if is_extreme else [one]


def test_places_that_nobody_reads_are_not_looked_for():
    sharded = shard(lambda x: x.cummax(1).values, values(torch.float64), 2, sw.Shard(1))
    assert sent(sharded) == [("all_gather", 2 * 3 * 8)]


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_dim_may_be_any(dim):
    x = torch.randn(5, 9, 11).double().transpose(0, dim)
    shape = list(x.shape)
    sharded = shard(lambda x: x.cumsum(dim), x, 2, sw.Shard(dim), decompose=True)
    assert sent(sharded) == [("all_gather", 2 * 8 * x.numel() // shape[dim])]


def test_ranks_without_a_piece():
    x, layout = torch.randn(400, 48).double(), sw.Shard(1, Blocks(unit=16))
    for name, op in OPERATORS.items():
        sharded = shard(lambda x, op=op: op(x, 1), x, 4, layout)
        assert all(c.num_bytes == 4 * 400 * 8 for c in sharded.collectives), name


def test_another_dim_is_cut_without_a_word():
    sharded = shard(lambda x: x.cumsum(1), values(torch.float64), 3, sw.Shard(0))
    assert sent(sharded) == []


def test_pieces_that_do_not_lie_in_order_are_gathered():
    layout = sw.Shard(1, Blocks(parts=(20, 23)))
    sharded = shard(lambda x: x.cumsum(1), values(torch.float64), 2, layout)
    assert sent(sharded) == [("all_gather", 3 * 43 * 8)]


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_lengths_that_are_not_known(op, num_ranks):
    x, others = torch.randn(3, 60).double(), (torch.randn(3, 6).double(), torch.randn(3, 102).double())
    dynamic = {"x": {1: 6 * Dim("t", max=100)}}
    sharded = shard(lambda x: op(x, 1), x, num_ranks, sw.Shard(1), dynamic=dynamic, others=others)
    assert {c.num_bytes for c in sharded.collectives} == {num_ranks * 3 * 8}


def test_half_precision_is_summed_in_single():
    x = torch.rand(2, 4000).bfloat16()
    exported = torch.export.export(Call(lambda x: x.cumsum(1)), (x,))
    sharded = sw.shard(
        exported, mesh=2, plan={}, inputs={"x": sw.Shard(1)}, outputs=sw.Shard(1), cost=ONLY_BYTES_MATTER
    )
    assert sent(sharded) == [("all_gather", 2 * 2 * 4)]
    found, exact = torch.cat([*sharded.simulate(x)], 1), x.double().cumsum(1)
    assert (found.double() - exact).abs().max() <= torch.finfo(torch.bfloat16).eps * exact.max()
