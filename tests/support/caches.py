"""Attention over a static cache, and the ways in which models write one in place."""

import torch
import torch.nn.functional as F

from tests.support.sharding import Attend

BATCH, LENGTH = 2, 8


def by_index_copy(cache, position, new):
    cache.index_copy_(2, position, new)


def by_index_put(cache, position, new):
    cache[:, :, position] = new


def by_index_put_of_rows(cache, position, new):
    """Every sequence of the batch has a row of indices, as continuous batching has it."""
    rows = torch.arange(new.shape[0])[:, None]
    cache.transpose(1, 2)[rows, position.expand(new.shape[0], -1)] = new.transpose(1, 2)


def by_scatter(cache, position, new):
    cache.scatter_(2, position[:, None].expand_as(new), new)


def by_scatter_of_masks(cache, position, new):
    """Where every place takes the token written there, if there is one: nothing is indexed."""
    taken = torch.arange(LENGTH)[:, None] == position
    cache.copy_(torch.where(taken.any(-1, keepdim=True), taken.to(new.dtype) @ new, cache))


WRITES = [by_index_copy, by_index_put, by_index_put_of_rows, by_scatter, by_scatter_of_masks]


class Cached(Attend):
    """Attention over all that was ever written."""

    batch = BATCH

    def __init__(self, write, heads=8, kv_heads=4):
        self.write, self.heads, self.kv_heads = write, heads, kv_heads
        super().__init__()
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(self.batch, kv_heads, LENGTH, self.head_dim))

    def forward(self, x, position):
        q, k, v = self.project(x)
        self.write(self.keys, position, k)
        self.write(self.values, position, v)
        seen = torch.arange(LENGTH) <= position[:, None]
        out = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


def tokens(count, batch=BATCH, seed=0):
    return torch.randn(batch, count, Attend.width, generator=torch.Generator().manual_seed(seed)).double()


STEPS = [(0, tokens(3), torch.arange(3)), *((1, tokens(1, seed=s), torch.tensor([s])) for s in (3, 4, 5))]
"""Three tokens at once, and then one after another."""
