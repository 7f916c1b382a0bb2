"""Attention with one projection for queries, keys and values."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, KV, DIM = 32, 8, 4, 4
GROUPS = HEADS // KV

X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """One projection for q, k and v, which ``unpack`` takes apart; rows of the weight lie as ``rows`` says."""

    def __init__(self, unpack, num_heads, kv_heads):
        super().__init__()
        self.unpack, self.groups = unpack, num_heads // kv_heads
        self.qkv = nn.Linear(WIDTH, (num_heads + 2 * kv_heads) * DIM)
        self.out = nn.Linear(num_heads * DIM, WIDTH)

    def forward(self, x):
        q, k, v = (heads.transpose(1, 2) for heads in self.unpack(self.qkv(x)))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.groups > 1)
        return self.out(out.transpose(1, 2).flatten(2))


def split_off(num_kv):
    """Multi-query attention (StarCoder): queries, then few keys and values."""

    def unpack(x):
        q, kv = x.split([HEADS * DIM, 2 * num_kv * DIM], -1)
        return (part.unflatten(-1, (-1, DIM)) for part in (q, *kv.chunk(2, -1)))

    return unpack
