"""Queries that share key-value heads, however a model spreads those: k and v are cut as far as their heads go, and
queries are held where their keys are.
"""

import pytest
import torch
import torch.nn.functional as F

from tests.support.sharding import PLAN, Attend, check, chunks, kinds, units

X = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))


class Grouped(Attend):
    """Key-value heads spread over the queries of their group by ``spread``."""

    def __init__(self, spread, heads=8, kv_heads=4):
        self.spread, self.heads, self.kv_heads = spread, heads, kv_heads
        super().__init__()

    def attend(self, q, k, v):
        return self.spread(q, k, v, self.heads // self.kv_heads)


def by_repeat_interleave(q, k, v, groups):
    return F.scaled_dot_product_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))


def by_expand(q, k, v, groups):
    b, h, t, d = k.shape
    k, v = (x[:, :, None].expand(b, h, groups, t, d).reshape(b, h * groups, t, d) for x in (k, v))
    return (q @ k.transpose(-1, -2) / d**0.5).softmax(-1) @ v


def by_enable_gqa(q, k, v, groups):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def by_broadcast(q, k, v, groups):
    """The queries get a dim for their place in the group; keys and values are never copied."""
    q = q.unflatten(1, (-1, groups))
    scores = q @ k[:, :, None].transpose(-1, -2) / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v[:, :, None]).flatten(1, 2)


def by_einsum(q, k, v, groups):
    q = q.unflatten(1, (-1, groups))
    scores = torch.einsum("bkgqd,bktd->bkgqt", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bkgqt,bktd->bkgqd", scores.softmax(-1), v).flatten(1, 2)


def by_stack(q, k, v, groups):
    k, v = (torch.stack([x] * groups, 2).flatten(1, 2) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


SPREADS = [by_repeat_interleave, by_expand, by_enable_gqa, by_broadcast, by_einsum, by_stack]


def query_heads(kv_heads, groups):
    return [[groups * head + i for head in heads for i in range(groups)] for heads in kv_heads]


@pytest.mark.parametrize(("plan", "num_ranks"), [(PLAN, 2), (PLAN, 4), ("auto", 2)], ids=["2", "4", "auto"])
@pytest.mark.parametrize("spread", SPREADS)
def test_queries_are_held_where_their_keys_are(spread, plan, num_ranks):
    sharded = check(Grouped(spread), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    assert units(sharded, "k_proj.weight", 4) == units(sharded, "v_proj.weight", 4) == chunks(4, num_ranks)
    assert units(sharded, "q_proj.weight", 4) == query_heads(chunks(4, num_ranks), 2)
    assert units(sharded, "o_proj.weight", 4, 1) == units(sharded, "q_proj.weight", 4)


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("spread", SPREADS)
def test_nine_heads_of_three_groups_stay_whole(spread, num_ranks):
    sharded = check(Grouped(spread, 9, 3), (X,), num_ranks, PLAN)
    assert kinds(sharded) == {"all_reduce": 1}
    assert units(sharded, "k_proj.weight", 4) == units(sharded, "v_proj.weight", 4) == chunks(3, num_ranks)
    assert units(sharded, "q_proj.weight", 4) == query_heads(chunks(3, num_ranks), 3)


@pytest.mark.parametrize("plan", [PLAN, "auto"], ids=["by name", "auto"])
@pytest.mark.parametrize("spread", SPREADS)
def test_two_heads_on_four_ranks_are_cut_in_two_and_their_queries_in_four(spread, plan):
    sharded = check(Grouped(spread, 8, 2), (X,), 4, plan, slack=0.5)
    assert sharded.mesh.axes == (("tp.0", 2), ("tp.1", 2))
    assert {(c.kind, c.axis) for c in sharded.collectives} == {("all_reduce", "tp")}
    assert len(sharded.collectives) == 1
    assert units(sharded, "k_proj.weight", 4) == units(sharded, "v_proj.weight", 4) == [[0], [0], [1], [1]]
    assert units(sharded, "q_proj.weight", 4) == units(sharded, "o_proj.weight", 4, 1) == chunks(8, 4)


@pytest.mark.parametrize("spread", SPREADS)
def test_one_head_for_all_queries_is_on_every_rank(spread):
    sharded = check(Grouped(spread, 8, 1), (X,), 4, {"q_proj": "colwise", "o_proj": "rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}
    assert units(sharded, "k_proj.weight", 4) == [[0]] * 4
    assert units(sharded, "q_proj.weight", 4) == chunks(8, 4)
