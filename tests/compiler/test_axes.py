"""Every axis is compiled when `shard` returns; what follows reads, and leaves what it reads as it was."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program.format import format_program
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
MESH = {"dp": 2, "tp": 2}


@pytest.fixture(scope="module")
def exported():
    return torch.export.export(redraw(Decoder(heads=4, kv_heads=4, width=16, hidden=16, layers=1)), (IDS,))


def test_nothing_is_solved_after_shard(exported, monkeypatch):
    sharded = sw.shard(exported, mesh=MESH, plan={"tp": MEGATRON}, inputs={"dp": {0: sw.Shard(0)}})
    monkeypatch.setattr("shardwright.compiler.axes.assign_layouts", lambda *_, **__: pytest.fail("solved again"))
    properties = [name for name, held in vars(sw.ShardedProgram).items() if isinstance(held, property)]
    assert {"assignments", "collectives", "weights", "gap"} <= set(properties)
    for name in properties:
        getattr(sharded, name)
    assert sw.verify(sharded, exported, (IDS,)).ok


def test_programs_are_the_same_in_whatever_order_they_are_asked_for(exported):
    def shard():
        return sw.shard(exported, mesh=MESH, plan={"tp": MEGATRON}, inputs={"dp": {0: sw.Shard(0)}})

    one, other = shard(), shard()
    forth = [format_program(one.rank_program(rank)) for rank in range(4)]
    back = [format_program(other.rank_program(rank)) for rank in reversed(range(4))]
    assert forth == back[::-1]
    assert [format_program(one.rank_program(rank)) for rank in range(4)] == forth
    assert one.collectives == other.collectives


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.down(torch.relu(self.up(x))), torch.sin, (x,))


def test_ranks_that_follow_know_which_inputs_are_weights():
    exported = torch.export.export(Branch(), (torch.ones(4, 8),))
    plan = {"tp": {"up": "colwise", "down": "rowwise"}}
    sharded = sw.shard(exported, mesh=MESH, plan=plan, inputs={"dp": {"x": sw.Shard(0)}})
    first, second = (sharded.compiled.assignment(1, place) for place in ((0,), (1,)))
    assert second.weights == first.weights == {"p_up_weight", "p_up_bias", "p_down_weight", "p_down_bias"}
    assert sw.verify(sharded, exported, (torch.ones(4, 8),)).ok
