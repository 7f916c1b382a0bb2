"""The slack of the automatic plan is a share of the bytes that can be cut, not of all."""

import pytest
import torch
from torch import nn

import shardwright as sw


class Mixed(nn.Module):
    """Small layers that can be cut, and a large matrix that is inverted, which cannot."""

    def __init__(self, size):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(3))
        self.mix, self.table = nn.Linear(64, size), nn.Parameter(torch.randn(size, size) + 30 * torch.eye(size))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.mix(x) @ torch.linalg.inv(self.table)


@pytest.mark.parametrize("size", [16, 512], ids=["small", "large"])
def test_a_large_weight_that_cannot_be_cut_leaves_no_room_for_small_ones(size):
    exported = torch.export.export(Mixed(size), (torch.randn(2, 8, 64),))
    sharded = sw.shard(exported, mesh=4)
    held = {weight.name: max(weight.rank_bytes) / weight.num_bytes for weight in sharded.weights}
    assert held["table"] == 1
    assert {held[f"layers.{i}.{j}.weight"] for i in range(3) for j in (0, 2)} == {0.25}
