"""Predicted times, in numbers worked out by hand: collectives, work, calls, and one rank alone."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import Decoder

COST = sw.CostModel(
    latency_us=100, link_bytes_per_us=10, memory_bytes_per_us=50, flops_per_us=1e9, call_us=3, name="a toy"
)
PLAN = {"0": "colwise", "2": "rowwise"}


@pytest.fixture(scope="module")
def program():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False))
    return torch.export.export(model, (torch.randn(4, 8),))


def test_a_pair_of_layers_on_two_ranks(program):
    found = sw.shard(program, mesh=2, plan=PLAN, cost=COST).prediction
    # Bytes of the input, a weight, what is between, and the output: read or written by three calls.
    x, weight, hidden, y = 4 * 4 * 8, 4 * 8 * 16, 4 * 4 * 16, 4 * 4 * 8
    alone = (x + weight + hidden + 2 * hidden + hidden + weight + y) / 50
    work = (x + weight / 2 + hidden / 2 + hidden + hidden / 2 + weight / 2 + y) / 50
    sent = 100 + 2 * y / 2 / 10
    assert (found.hardware, found.num_ranks, found.num_collectives) == ("a toy", 2, 1)
    assert found.work_us == pytest.approx(work)
    assert found.communication_us == pytest.approx(sent)
    assert found.latency_us == 100
    assert found.calls_us == 3 * 3
    assert found.alone_us == pytest.approx(alone + 3 * 3)
    # The input is read and the output is written by both.
    assert found.repeated_us == pytest.approx((x + y) / 2 / 50)
    assert found.total_us == pytest.approx(work + sent + 9)


def test_ranks_that_are_slower_than_one_are_told_so_with_the_reason(program):
    slow = sw.shard(program, mesh=2, plan=PLAN, cost=COST).prediction
    assert slow.is_slower
    assert "slower than one rank: 100 µs of latencies, 12.8 µs of bytes sent, 2.56 µs of work" in str(slow)
    quick = sw.CostModel(latency_us=1e-3, link_bytes_per_us=1e6, memory_bytes_per_us=1)
    fast = sw.shard(program, mesh=2, plan=PLAN, cost=quick).prediction
    assert not fast.is_slower and "slower" not in str(fast)
    assert "predicted for a cost model of the caller's" in str(fast)


def test_what_is_sent_together_has_one_latency():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.ModuleList(nn.Linear(16, 8, bias=False) for _ in range(2))

        def forward(self, x):
            hidden = self.up(x).relu()
            return self.down[0](hidden), self.down[1](hidden)

    program = torch.export.export(Twice(), (torch.randn(4, 8),))
    found = sw.shard(program, mesh=2, plan={"up": "colwise", "down.*": "rowwise"}, cost=COST).prediction
    assert (found.num_collectives, found.latency_us) == (2, 100)
    assert found.communication_us == pytest.approx(100 + 2 * 4 * 4 * 8 / 10)


def test_what_is_whole_on_every_rank_is_as_fast_as_one(program):
    found = sw.shard(program, mesh=2, plan={}, cost=COST).prediction
    assert not found.is_slower
    assert found.total_us == pytest.approx(found.alone_us)


def test_one_rank_alone_is_the_same_on_any_mesh():
    program = torch.export.export(Decoder(layers=2).eval(), (torch.zeros(2, 8, dtype=torch.long),))
    meshes = [1, 2, 4, {"dp": 2, "tp": 2}]
    alone = {sw.shard(program, mesh=mesh, plan={"tp": "auto"}, cost=COST).prediction.alone_us for mesh in meshes}
    assert max(alone) == pytest.approx(min(alone))
