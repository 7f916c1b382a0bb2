"""`flex_attention` is cut on heads and batch entries, and its score and mask functions see global indices."""

import functools
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import shardwright as sw

SLOPES = torch.linspace(0.1, 1.0, 6)
LENGTHS = torch.tensor([5, 8, 3, 6])


def alibi(score, batch, head, query, key):
    return score + SLOPES[head] * (key - query)


def by_batch(score, batch, head, query, key):
    return torch.where(key < LENGTHS[batch], score, -1e9)


def causal(batch, head, query, key):
    return query >= key


def sliding_by_head(batch, head, query, key):
    return (query >= key) & (query - key <= head)


class Attention(nn.Module):
    """Six query heads over ``kv_heads`` key-value heads of four dims."""

    def __init__(self, score=None, mask=None, kv_heads=6, mask_heads=None):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 24), nn.Linear(8, 4 * kv_heads), nn.Linear(8, 4 * kv_heads)
        self.o, self.score, self.mask = nn.Linear(24, 8), score, None
        if mask is not None:
            self.mask = create_block_mask(mask, B=None, H=mask_heads, Q_LEN=8, KV_LEN=8, device="cpu")

    def forward(self, x):
        heads = [layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        grouped = heads[0].shape[1] != heads[1].shape[1]
        out = flex_attention(*heads, score_mod=self.score, block_mask=self.mask, enable_gqa=grouped)
        return self.o(out.transpose(1, 2).flatten(2))


CASES = {
    "plain": {},
    "by head": {"score": alibi},
    "by batch entry": {"score": by_batch},
    "causal": {"mask": causal},
    "mask by head": {"mask": sliding_by_head, "mask_heads": 6},
    "grouped": {"score": alibi, "mask": sliding_by_head, "mask_heads": 6, "kv_heads": 3},
}
PLAN = {"[qkv]": "colwise", "o": "rowwise"}


@functools.cache
def exported(case):
    torch.manual_seed(0)
    x = torch.randn(4, 8, 8)
    return torch.export.export(Attention(**CASES[case]).eval().requires_grad_(False), (x,)), x


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_heads_are_cut(case, num_ranks):
    program, x = exported(case)
    result = sw.shard(program, mesh=num_ranks, plan=PLAN)
    assert sw.verify(result, program, (x,)).ok
    assert Counter(c.kind for c in result.collectives) == {"all_reduce": 1}
    assert not result.fallbacks


@pytest.mark.parametrize(("kv_heads", "num_ranks"), [(1, 3), (3, 6)])
def test_heads_that_share_their_keys_are_cut(kv_heads, num_ranks):
    torch.manual_seed(0)
    x = torch.randn(4, 8, 8)
    model = Attention(alibi, sliding_by_head, kv_heads, mask_heads=6).eval().requires_grad_(False)
    program = torch.export.export(model, (x,))
    plan = PLAN if kv_heads > 1 else {"q": "colwise", "o": "rowwise"}
    result = sw.shard(program, mesh=num_ranks, plan=plan)
    assert sw.verify(result, program, (x,)).ok
    assert Counter((c.kind, c.axis) for c in result.collectives) == {("all_reduce", "tp"): 1}
    share = {w.name: max(w.rank_bytes) / w.num_bytes for w in result.weights}
    assert share["q.weight"] == share["o.weight"] == 1 / num_ranks
    assert share["k.weight"] == share["v.weight"] == 1 / kv_heads


@pytest.mark.parametrize("case", ["by batch entry", "mask by head"])
def test_batch_entries_are_cut(case):
    program, x = exported(case)
    result = sw.shard(program, mesh=2, plan={}, inputs=sw.Shard(0), outputs=sw.Shard(0))
    assert not result.collectives
    for rank, out in enumerate(result.simulate(x)):
        torch.testing.assert_close(out, program.module()(x).chunk(2)[rank])


def test_heads_and_batch_entries_are_cut_on_two_axes():
    program, x = exported("grouped")
    cut = {"dp": sw.Shard(0)}
    result = sw.shard(program, mesh={"dp": 2, "tp": 3}, plan={"tp": PLAN}, inputs=cut, outputs=cut)
    for rank, out in enumerate(result.simulate(x)):
        torch.testing.assert_close(out, program.module()(x).chunk(2)[rank // 3])


def test_a_rank_without_heads_takes_any_number_of_batch_entries():
    torch.manual_seed(0)
    model = Attention(kv_heads=5)
    model.q, model.o = nn.Linear(8, 20), nn.Linear(20, 8)
    x = torch.randn(4, 8, 8)
    batch = torch.export.Dim("batch")
    # What dynamo keeps of exports with fixed shapes would fix the batch.
    torch._dynamo.reset()
    program = torch.export.export(model.eval().requires_grad_(False), (x,), dynamic_shapes=({0: batch},))
    result = sw.shard(program, mesh=6, plan=PLAN)
    for rows in (4, 3):
        assert sw.verify(result, program, (torch.randn(rows, 8, 8),)).ok
