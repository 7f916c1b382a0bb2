"""Rows, diagonals, integrals and pools over a cut dim: the operator's numbers, and no more than they are is sent."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.rules.call import bind_arguments, leaves
from shardwright.rules.operators.place_expansions import PLACES
from shardwright.rules.registry import op_names
from tests.support.models import Call
from tests.support.sharding import BYTES_MATTER

F = nn.functional
aten = torch.ops.aten
NAN, INF = float("nan"), float("inf")


def values(*shape, dtype=torch.float64, holes=False):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    if holes:
        flat = x.view(-1)
        flat[3], flat[7], flat[-2], flat[-1] = NAN, INF, NAN, -INF
    return x


def pool_calls(x):
    """(operator, arguments) of pools with one window of everything, and with others; ``x``: three dims of space."""
    # Not all pools over three dims have kernels in bfloat16.
    for count, lead in ((1, x[0, :, 0]), (2, x[:, :, 0]), (3, x))[: 2 if x.dtype == torch.bfloat16 else 3]:
        space = list(lead.shape[-count:])
        average, largest = getattr(aten, f"avg_pool{count}d"), getattr(aten, f"max_pool{count}d")
        with_indices = getattr(aten, f"max_pool{count}d_with_indices")
        yield getattr(aten, f"adaptive_max_pool{count}d").default, (lead, [1] * count)
        yield largest.default, (lead, space)
        if count > 1:
            yield with_indices.default, (lead, space)
        yield getattr(aten, f"adaptive_avg_pool{count}d").default, (lead, [1] * count)
        yield average.default, (lead, space)
        if count > 1:
            yield average.default, (lead, space, [], 0, False, True, 7)
            yield getattr(aten, f"_adaptive_avg_pool{count}d").default, (lead, [1] * count)
    yield aten.max_pool1d_with_indices.default, (x[0, :, 0], [x.shape[-1]])


def place_calls(x):
    """(operator, arguments) of rows, diagonals and integrals."""
    for index in (0, 3, -1):
        yield aten.select.int, (x, 1, index)
        yield aten.select_copy.int, (x, -1, index)
    for offset in (0, 1, -2, 5):
        yield aten.diagonal.default, (x, offset, 1, -1)
        yield aten.diagonal_copy.default, (x, offset, 2, 0)
    if x.dtype.is_floating_point:
        yield aten.trapezoid.dx, (x,), {"dx": 0.5, "dim": 1}
        x = x.nan_to_num(0, 0, 0)
        yield aten.trapezoid.x, (x, x.cos()), {"dim": 2}
        yield aten.trapezoid.x, (x, x[0, 0, 0]), {}


INPUTS = {
    "float64": values(2, 5, 3, 6),
    "holes": values(2, 5, 3, 6, holes=True),
    "ties": values(2, 5, 3, 6).sign(),
    "bfloat16": values(2, 5, 3, 6, dtype=torch.bfloat16),
}
OTHERS = {"int64": values(2, 5, 3, 6, dtype=torch.int64), "bool": values(2, 5, 3, 6) > 0}


@pytest.mark.parametrize("x", [*INPUTS.values(), *OTHERS.values()], ids=[*INPUTS, *OTHERS])
def test_what_is_written_out_is_what_the_kernel_gives(x):
    seen = set()
    for op, args, *more in [*place_calls(x), *(pool_calls(x) if x.is_floating_point() else ())]:
        kwargs = more[0] if more else {}
        name = next(name for name in op_names(op) if name in PLACES)
        seen.add(name)
        found = leaves(PLACES[name](bind_arguments(op, args, kwargs)))
        wanted = leaves(op(*args, **kwargs))
        assert [(one.shape, one.dtype) for one in found] == [(one.shape, one.dtype) for one in wanted], (op, args[1:])
        for one, other in zip(found, wanted, strict=True):
            if not other.is_floating_point() or "select" in name or "diagonal" in name or "max" in name:
                assert torch.equal(one.nan_to_num(9), other.nan_to_num(9)), (op, args[1:])
            else:
                eps = torch.finfo(other.dtype).eps
                torch.testing.assert_close(one, other, rtol=4 * eps, atol=64 * eps, equal_nan=True)
    assert x.dtype != torch.float64 or seen == set(PLACES)


def test_every_entry_is_an_operator():
    for name in PLACES:
        packet, _, overload = name.removeprefix("aten::").partition(".")
        assert overload in ("", *getattr(aten, packet).overloads())


OF_PARTS = [
    (aten.max_pool2d.default, (values(2, 3, 4, 6), [4, 3])),
    (aten.max_pool2d.default, (values(2, 3, 4, 6), [4, 6], [], [2, 3])),
    (aten.avg_pool2d.default, (values(2, 3, 4, 6), [4, 6], [], [1, 1])),
    (aten.adaptive_avg_pool2d.default, (values(2, 3, 4, 6), [1, 2])),
    (aten.trapezoid.dx, (values(2, 1),)),
]


@pytest.mark.parametrize(("op", "args"), OF_PARTS)
def test_other_windows_stay(op, args):
    name = next(name for name in op_names(op) if name in PLACES)
    assert PLACES[name](bind_arguments(op, args, {})) is None


SQUARE, IMAGE = (3, 43, 43), (3, 5, 43, 6)
# The call, its operand's shape, the dim that is cut, the bytes of each all-reduce.
CALLS = {
    "argmax": (torch.argmax, SQUARE, 1, [8, 8]),
    "argmin_kept": (lambda x: x.argmin(keepdim=True), SQUARE, 2, [8, 8]),
    "max": (torch.max, SQUARE, 1, [8]),
    "first": (lambda x: x[:, 0], SQUARE, 1, [3 * 43 * 8]),
    "last": (lambda x: x.relu()[..., -1], SQUARE, 2, [3 * 43 * 8]),
    "diagonal": (lambda x: x.diagonal(0, 1, 2), SQUARE, 2, [3 * 43 * 8]),
    "diagonal_offset": (lambda x: x.diagonal(2, 1, 2), SQUARE, 2, [3 * 41 * 8]),
    "traces": (lambda x: x.diagonal(0, 1, 2).sum(-1), SQUARE, 1, [3 * 8]),
    "trace_of_a_matrix": (torch.trace, (43, 50), 0, [8]),
    "trapezoid": (lambda x: torch.trapezoid(x, dim=1), SQUARE, 1, [3 * 43 * 8]),
    "average": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE, 2, [3 * 5 * 8]),
    "average_1d": (lambda x: F.adaptive_avg_pool1d(x, 1), SQUARE, 2, [3 * 43 * 8]),
    "average_window": (lambda x: F.avg_pool2d(x, x.shape[2:]), IMAGE, 2, [3 * 5 * 8]),
    "largest": (lambda x: F.adaptive_max_pool2d(x, 1), IMAGE, 2, [3 * 5 * 8]),
    "largest_places": (lambda x: F.adaptive_max_pool2d(x, 1, return_indices=True), IMAGE, 2, [3 * 5 * 8] * 2),
    "largest_window": (lambda x: F.max_pool1d(x, x.shape[2]), SQUARE, 2, [3 * 43 * 8]),
    "power_window": (lambda x: F.lp_pool1d(x, 3.0, 43), SQUARE, 2, [3 * 43 * 8]),
}


@functools.cache
def exported_call(name, decompose):
    """An input, and the exported program of a call."""
    call, shape, _, _ = CALLS[name]
    x = values(*shape)
    exported = torch.export.export(Call(call), (x,))
    return x, exported.run_decompositions() if decompose else exported


def shard(x, exported, num_ranks, layout, outputs=None):
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs={"x": layout}, outputs=outputs, cost=BYTES_MATTER)
    report = sw.verify(sharded, exported, (x,), tolerance=1e-9)
    assert report.ok, str(report)
    return [(c.kind, c.num_bytes) for c in sharded.collectives]


@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", CALLS)
def test_small_results_in_place_of_a_gather(name, num_ranks, decompose):
    _, _, dim, sizes = CALLS[name]
    sent = shard(*exported_call(name, decompose), num_ranks, sw.Shard(dim))
    assert sent == [("all_reduce", size) for size in sizes]


def test_a_diagonal_stays_cut_with_its_rows():
    assert shard(*exported_call("diagonal", False), 3, sw.Shard(1), outputs={0: sw.Shard(1)}) == []


def test_a_row_of_another_dim_stays_a_view():
    exported = torch.export.export(Call(lambda x: x.cos().cumsum(1)[:, :, 0]), (values(4, 40, 6),))
    sharded = sw.shard(exported, mesh=2, plan={}, inputs={"x": sw.Shard(1)}, outputs={0: sw.Shard(1)})
    assert any("select" in str(node.target) for node in sharded.exported(0).graph.nodes)
