"""Attention of fewer heads than ranks is right under plans, whatever they pin of it."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.sharding import check


class FewHeads(nn.Module):
    """Attention of fewer heads than ranks, key-value heads repeated."""

    def __init__(self, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, 16 // heads
        self.q, self.o = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.k, self.v = (nn.Linear(16, kv_heads * self.width) for _ in range(2))

    def forward(self, x):
        q = self.q(x).view(3, 5, self.heads, self.width).transpose(1, 2)
        k, v = (f(x).view(3, 5, self.kv_heads, self.width).transpose(1, 2) for f in (self.k, self.v))
        k, v = (s.repeat_interleave(self.heads // self.kv_heads, 1) for s in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o(mixed.reshape(3, 5, 16))


PINS = {
    "a bias and the output": {"v.bias": sw.Shard(0), "o.weight": sw.Shard(1)},
    "the keys": {"k.weight": sw.Shard(0), "o": "rowwise"},
    "heads": {"q": "colwise", "o": "rowwise"},
    "inside heads": {"q.weight": sw.Shard(0), "v.weight": sw.Shard(1)},
    "nothing": "auto",
}


@pytest.mark.parametrize("plan", PINS.values(), ids=PINS)
@pytest.mark.parametrize(("heads", "kv_heads", "num_ranks"), [(4, 2, 8), (2, 1, 4), (4, 2, 3)])
def test_fewer_heads_than_ranks_under_a_plan(heads, kv_heads, num_ranks, plan):
    check(FewHeads(heads, kv_heads), (torch.randn(3, 5, 16),), num_ranks, plan)
