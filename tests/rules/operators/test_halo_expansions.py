"""Neighbours in a cut dim: the operator's numbers, and no more than the edges of pieces is gathered."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import shardwright as sw
from shardwright.layout.cut import Blocks, Cut
from shardwright.rules.call import bind_arguments
from shardwright.rules.operators.halo_expansions import HALOS
from shardwright.rules.operators.place_expansions import CUT
from shardwright.rules.registry import op_names
from tests.support.models import Call
from tests.support.sharding import ONLY_BYTES_MATTER

F = nn.functional
aten = torch.ops.aten


def values(dtype, size=43):
    x = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    return (x * 3).to(dtype) if dtype != torch.bool else x > 0


CALLS = [
    (aten.constant_pad_nd.default, ([1, -1],)),
    (aten.constant_pad_nd.default, ([-2, 2], 5)),
    (aten.pad.default, ([3, -3, 0, 0],)),
    (aten.diff.default, ()),
    (aten.diff.default, (1, 1)),
    (aten.cumulative_trapezoid.dx, (), {"dx": 0.5, "dim": -1}),
    (aten.roll.default, ([2], [1])),
    (aten.roll.default, ([-5], [-1])),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}-{call[1]}")
def test_what_is_written_out_is_what_the_kernel_gives(call, dtype):
    op, args, *more = call
    kwargs = more[0] if more else {}
    x = values(dtype)
    name = next(name for name in op_names(op) if name in HALOS)
    for lengths in ([22, 21], [15, 15, 13], [43, 0], [0, 20, 23]):
        cut = Cut.of(len(lengths), enumerate(lengths))
        found = HALOS[name]({**bind_arguments(op, (x, *args), kwargs), CUT: cut})
        if "trapezoid" in name and not x.is_floating_point():
            assert found is None
            continue
        wanted = op(x, *args, **kwargs)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        rounding = {"rtol": 0.05, "atol": 0.05} if "trapezoid" in name and dtype == torch.bfloat16 else {}
        torch.testing.assert_close(found, wanted, **rounding)


STAY = [
    (aten.constant_pad_nd.default, ([1, 0],)),
    (aten.constant_pad_nd.default, ([1, -1, 1, -1],)),
    (aten.pad.default, ([1, -1], "reflect")),
    (aten.constant_pad_nd.default, ([21, -21],)),
    (aten.diff.default, (2,)),
    (aten.diff.default, (1, -1, values(torch.float64, 1))),
    (aten.roll.default, ([1, 1], [0, 1])),
    (aten.roll.default, ([3],)),
]


@pytest.mark.parametrize(("op", "args"), STAY)
def test_what_looks_farther_stays(op, args):
    name = next(name for name in op_names(op) if name in HALOS)
    given = {**bind_arguments(op, (values(torch.float64), *args), {}), CUT: Cut.of(3, enumerate([20, 20, 3]))}
    assert HALOS[name](given) is None


def test_the_table_is_alphabetical_and_tested():
    assert list(HALOS) == sorted({next(name for name in op_names(op) if name in HALOS) for op, *_ in CALLS})


ALONG = sw.Shard(1)


def sent(call, x, num_ranks, *, layout=ALONG, outputs=None, decompose=False, dynamic=None, others=()):
    exported = torch.export.export(Call(call), (x,), dynamic_shapes=dynamic)
    exported = exported.run_decompositions() if decompose else exported
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs={"x": layout}, outputs=outputs, cost=ONLY_BYTES_MATTER)
    for given in (x, *others):
        report = sw.verify(sharded, exported, (given,), tolerance=1e-9)
        assert report.ok, str(report)
    return [(c.kind, c.num_bytes) for c in sharded.collectives]


# The call, whether its result is cut alike, the entries of an edge, the bytes of what else is sent.
PROGRAMS = {
    "token_shift": (lambda x: F.pad(x, (1, -1)), True, 1, []),
    "roll": (lambda x: x.roll(-3, 1), True, 3, []),
    "total_variation": (lambda x: x.diff(dim=1).abs().sum(), False, 1, [("all_reduce", 8)]),
    "change_of_sign": (lambda x: (x > 0).diff(dim=1).sum(), False, 1 / 8, [("all_reduce", 8)]),
}


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", PROGRAMS)
def test_edges_in_place_of_a_gather(name, num_ranks):
    call, is_cut, entries, rest = PROGRAMS[name]
    for size in (42, 43):
        found = sent(call, values(torch.float64, size), num_ranks, outputs={0: ALONG} if is_cut else None)
        assert found == [("all_gather", num_ranks * 3 * entries * 8), *rest]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_running_integral(num_ranks):
    found = sent(lambda x: torch.cumulative_trapezoid(x, dim=1).amax(1), values(torch.float64), num_ranks)
    assert found == [("all_gather", num_ranks * 3 * 8)] * 2 + [("all_reduce", 3 * 8)]


def test_ranks_without_a_piece():
    layout = sw.Shard(1, Blocks(unit=16))
    x = values(torch.float64, 48)
    assert sent(lambda x: F.pad(x, (1, -1)), x, 4, layout=layout, outputs={0: layout}) == [("all_gather", 4 * 3 * 8)]
    assert sent(lambda x: x.roll(2, 1), x, 4, layout=layout, outputs={0: layout}) == [("all_gather", 4 * 3 * 16)]


def test_a_shift_of_unknown_length():
    x, others = values(torch.float64, 60), (values(torch.float64, 6), values(torch.float64, 102))
    dynamic = {"x": {1: 6 * Dim("t", max=100)}}
    found = sent(lambda x: F.pad(x, (1, -1)), x, 3, outputs={0: ALONG}, dynamic=dynamic, others=others)
    assert found == [("all_gather", 3 * 3 * 8)]


class TokenShift(nn.Module):
    """A layer of RWKV: each token mixed with the one before it."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.full((8,), 0.3))
        self.key, self.value = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x):
        before = F.pad(x, (0, 0, 1, -1))
        mixed = x * self.mix + before * (1 - self.mix)
        return x + self.value(torch.relu(self.key(mixed)) ** 2)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
def test_a_layer_that_shifts_tokens_on_a_cut_sequence(num_ranks, decompose):
    x = torch.randn(2, 45, 8).double()
    found = sent(TokenShift().double(), x, num_ranks, outputs={0: ALONG}, decompose=decompose)
    assert found == [("all_gather", num_ranks * 2 * 8 * 8)]
