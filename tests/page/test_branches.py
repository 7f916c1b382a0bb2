"""The module tree of a page: layers that are alike once, sums right."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.page.branches import module_branches
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(2, 8, dtype=torch.long)


def branches(model, args, plan, mesh=2):
    sharded = sw.shard(torch.export.export(redraw(model), args), mesh=mesh, plan=plan)
    root = module_branches(sharded.facts())
    assert root.num_bytes == sum(w.num_bytes for w in sharded.weights)
    assert list(root.rank_bytes) == sharded.rank_bytes
    assert root.communication_us == pytest.approx(sum(sharded.facts().times_us()))
    assert root.compute_us == pytest.approx(sum(sharded.facts().work_us.values()))
    return {one.paths[0]: one for one in root.walk()}


def test_layers_alike_are_one_branch():
    found = branches(Decoder(layers=5), (IDS,), MEGATRON)
    assert found["layers.0"].count == 5
    assert found["layers"].num_bytes == 5 * found["layers.0"].num_bytes
    assert "layers.1" not in found
    assert found["layers.0.mlp.down_proj"].kind == "Linear"


def test_a_layer_that_is_cut_otherwise_stands_by_itself():
    plan = {
        f"layers.{i}.mlp.{name}": style
        for i in (0, 2)
        for name, style in (("gate_proj", "colwise"), ("up_proj", "colwise"), ("down_proj", "rowwise"))
    }
    found = branches(Decoder(layers=3), (IDS,), plan)
    assert found["layers.0"].paths == ["layers.0", "layers.2"]
    assert found["layers.1"].count == 1


def test_uneven_ranks_are_summed_rank_by_rank():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(5, 7, bias=False), nn.Linear(7, 5, bias=False)

        def forward(self, x):
            return self.down(self.up(x))

    found = branches(Two(), (torch.randn(3, 5),), {"up": "colwise", "down": "rowwise"})
    assert list(found[""].rank_bytes) == [4 * 2 * 5 * 4, 4 * 2 * 5 * 3]
