"""Projections that several tensors share are found from the graph and cut part by part: one all-reduce, no gather."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.packed import DIM, GROUPS, HEADS, KV, WIDTH, Attention, X, split_off
from tests.support.sharding import check, chunks, held, kinds


def by_split(x):
    """GPT-2: three equal parts."""
    return (part.unflatten(-1, (HEADS, DIM)) for part in x.split(WIDTH, -1))


def by_slices(x):
    """Phi-3: parts of unequal size."""
    q, kv = HEADS * DIM, KV * DIM
    parts = x[..., :q], x[..., q : q + kv], x[..., q + kv :]
    return (part.unflatten(-1, (-1, DIM)) for part in parts)


def by_group(x):
    """Falcon: the queries of a group, then its key and its value; keys and values are spread over the queries."""
    x = x.view(*x.shape[:2], KV, GROUPS + 2, DIM)
    q, k, v = x[..., :-2, :], x[..., [-2], :], x[..., [-1], :]
    k, v = torch.broadcast_to(k, q.shape), torch.broadcast_to(v, q.shape)
    return (part.flatten(2, 3) for part in (q, k, v))


def by_head(x):
    """GPT-NeoX: the query, key and value of a head together."""
    return x.view(*x.shape[:2], HEADS, 3 * DIM).chunk(3, -1)


def by_index(x):
    """BLOOM: as GPT-NeoX, taken apart by an index."""
    x = x.view(*x.shape[:2], HEADS, 3, DIM)
    return x[..., 0, :], x[..., 1, :], x[..., 2, :]


def by_unbind(x):
    """Vision towers: three equal parts, taken apart as a dim of its own."""
    return x.reshape(*x.shape[:2], 3, HEADS, DIM).permute(2, 0, 1, 3, 4).unbind(0)


PARTS = [(part, head) for part in "qkv" for head in range(HEADS)]
PLAN = {"qkv": "colwise", "out": "rowwise"}
STYLES = {
    "gpt2": (by_split, HEADS, PARTS),
    "phi3": (by_slices, KV, [("q", h // GROUPS) for h in range(HEADS)] + [(p, h) for p in "kv" for h in range(KV)]),
    "falcon": (by_group, KV, [(p, h) for h in range(KV) for p in ["q"] * GROUPS + ["k", "v"]]),
    "neox": (by_head, HEADS, [(p, h) for h in range(HEADS) for p in "qkv"]),
    "bloom": (by_index, HEADS, [(p, h) for h in range(HEADS) for p in "qkv"]),
    "vit": (by_unbind, HEADS, PARTS),
}
"""How the projection is taken apart, its key-value heads, and the part and key-value head of every head-sized block."""


WAYS = [(PLAN, 2), (PLAN, 4), ("auto", 2), ("auto", 4)]


def check_parts(style, plan, num_ranks):
    unpack, kv_heads, blocks = STYLES[style]
    sharded = check(Attention(unpack, HEADS, kv_heads), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    for rank, rows in enumerate(held(sharded, "qkv.weight")):
        mine = [i for i, (_, head) in enumerate(blocks) if head in chunks(kv_heads, num_ranks)[rank]]
        assert rows == [DIM * block + i for block in mine for i in range(DIM)]
    assert held(sharded, "qkv.bias") == held(sharded, "qkv.weight")


@pytest.mark.parametrize(("plan", "num_ranks"), WAYS, ids=["2", "4", "auto 2", "auto 4"])
@pytest.mark.parametrize("style", STYLES)
def test_every_rank_gets_the_query_key_and_value_of_its_heads(style, plan, num_ranks):
    check_parts(style, plan, num_ranks)


@pytest.mark.parametrize("style", STYLES)
def test_heads_that_do_not_divide_stay_whole(style):
    check_parts(style, PLAN, 3)


def sliced_off(num_kv):
    """Falcon 7B: as one tensor of heads, the last of which are keys and values."""

    def unpack(x):
        x = x.unflatten(-1, (-1, DIM))
        return x[:, :, : -2 * num_kv], x[:, :, -2 * num_kv : -num_kv], x[:, :, -num_kv:]

    return unpack


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
@pytest.mark.parametrize("num_kv", [1, 2])
@pytest.mark.parametrize("unpack", [split_off, sliced_off])
def test_keys_and_values_fewer_than_ranks_are_shared_beside_the_queries(unpack, num_kv, num_ranks):
    """No gather: every rank has the queries of its heads, and the keys and values that these attend to."""
    sharded = check(Attention(unpack(num_kv), HEADS, num_kv), (X,), num_ranks, PLAN)
    assert kinds(sharded) == {"all_reduce": 1}
    for rank, heads in enumerate(chunks(HEADS, num_ranks)):
        groups = sorted({head * num_kv // HEADS for head in heads})
        blocks = [*heads, *(HEADS + part * num_kv + group for part in (0, 1) for group in groups)]
        assert held(sharded, "qkv.weight")[rank] == [DIM * block + i for block in blocks for i in range(DIM)]
    assert held(sharded, "qkv.bias") == held(sharded, "qkv.weight")


class Transposed(nn.Module):
    """A weight (in, out), as GPT-2's Conv1D has it."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(WIDTH, 3 * WIDTH)), nn.Parameter(torch.empty(3 * WIDTH))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, WIDTH), self.weight).view(*x.shape[:-1], 3 * WIDTH)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_transposed_weight_is_cut_part_by_part_too(num_ranks):
    model = Attention(by_split, HEADS, HEADS)
    model.qkv = Transposed()
    sharded = check(model, (X,), num_ranks)
    assert kinds(sharded) == {"all_reduce": 1}
    mine = [i for i, (_, head) in enumerate(PARTS) if head in chunks(HEADS, num_ranks)[0]]
    assert held(sharded, "qkv.weight", 1)[0] == [DIM * block + i for block in mine for i in range(DIM)]


def halves(x):
    return x.chunk(2, -1)


def alternating(x):
    return x[..., ::2], x[..., 1::2]


def stacked(x):
    return x.unflatten(-1, (2, -1)).unbind(-2)


class GateUp(nn.Module):
    def __init__(self, unpack):
        super().__init__()
        self.unpack = unpack
        self.gate_up, self.down = nn.Linear(WIDTH, 40), nn.Linear(20, WIDTH)

    def forward(self, x):
        gate, up = self.unpack(self.gate_up(x))
        return self.down(F.silu(gate) * up)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("plan", [{"gate_up": "colwise", "down": "rowwise"}, "auto"], ids=["by name", "auto"])
@pytest.mark.parametrize("unpack", [halves, alternating, stacked])
def test_every_rank_gets_the_gate_and_up_of_its_features(unpack, plan, num_ranks):
    sharded = check(GateUp(unpack), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    gate, up = unpack(torch.arange(40))
    for rank, rows in enumerate(held(sharded, "gate_up.weight")):
        features = held(sharded, "down.weight", 1)[rank]
        assert features == chunks(20, num_ranks)[rank]
        assert rows == sorted([*gate[features].tolist(), *up[features].tolist()])
