"""Mixtures of experts in every style of graph: cut by expert or inside every expert, one all-reduce a block."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shardwright as sw
from tests.support.models import GLU
from tests.support.sharding import check, chunks, held, kinds

WIDTH, HIDDEN, EXPERTS, TOP = 8, 12, 4, 2
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Experts(nn.Module):
    """Routed by top-k; ``run`` says how the chosen experts are computed, from tokens, weights and chosen experts."""

    def __init__(self, run, shared=False):
        super().__init__()
        self.run = run
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.gate_up = nn.Parameter(torch.empty(EXPERTS, 2 * HIDDEN, WIDTH))
        self.down = nn.Parameter(torch.empty(EXPERTS, WIDTH, HIDDEN))
        self.shared = GLU(WIDTH, HIDDEN) if shared else None
        self.shared_gate = nn.Linear(WIDTH, 1, bias=False) if shared else None

    def forward(self, x):
        tokens = x.flatten(0, 1)
        weights, chosen = self.router(tokens).softmax(-1).topk(TOP, -1)
        out = self.run(tokens, self.gate_up, self.down, weights / weights.sum(-1, keepdim=True), chosen)
        if self.shared is not None:
            out = out + self.shared_gate(tokens).sigmoid() * self.shared(tokens)
        return out.view_as(x)


def glu(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def dense(weights, chosen):
    """(tokens, experts): the weight of every expert, zero where it was not chosen."""
    return torch.zeros(len(chosen), EXPERTS, dtype=weights.dtype).scatter(1, chosen, weights)


def loop_over_all(x, gate_up, down, weights, chosen):
    """Every expert sees every token and is multiplied by its weight."""
    out = torch.zeros_like(x)
    for expert in range(EXPERTS):
        weight = torch.where(chosen == expert, weights, 0).sum(-1, keepdim=True)
        out = out + weight * F.linear(glu(F.linear(x, gate_up[expert])), down[expert])
    return out


def loop_with_index_add(x, gate_up, down, weights, chosen):
    """Mixtral as it was: every expert takes its tokens, how many depends on the data."""
    out = torch.zeros_like(x)
    mask = F.one_hot(chosen, EXPERTS).permute(2, 1, 0)
    for expert in range(EXPERTS):
        place, token = torch.where(mask[expert])
        found = F.linear(glu(F.linear(x[token], gate_up[expert])), down[expert])
        out = out.index_add(0, token, found * weights[token, place, None])
    return out


def batched(x, gate_up, down, weights, chosen):
    """Llama 4: all experts at once, on all tokens."""
    every = x.expand(EXPERTS, *x.shape)
    out = torch.bmm(glu(torch.bmm(every, gate_up.transpose(1, 2))), down.transpose(1, 2))
    return (out * dense(weights, chosen).t()[..., None]).sum(0)


def by_einsum(x, gate_up, down, weights, chosen):
    hidden = glu(torch.einsum("td,efd->tef", x, gate_up))
    return torch.einsum("tef,edf,te->td", hidden, down, dense(weights, chosen))


def with_weights_taken(x, gate_up, down, weights, chosen):
    """Every token takes the weights of its experts."""
    hidden = glu(torch.einsum("td,tkfd->tkf", x, gate_up[chosen]))
    return torch.einsum("tkf,tkdf,tk->td", hidden, down[chosen], weights)


WHOLE = ["aten.where.default"]
"""Which tokens an expert gets: as many as the data says, so every rank looks for itself."""

RUNS = [loop_over_all, loop_with_index_add, batched, by_einsum, with_weights_taken]
BY_EXPERT = {"gate_up": sw.Shard(0), "down": sw.Shard(0)}
INSIDE = {"gate_up": "packed_colwise", "down": "rowwise"}
SHARED = {"shared.[gate,up]_proj": "colwise", "shared.down_proj": "rowwise"}


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("run", RUNS)
def test_experts_cut_inside_cost_one_sum(run, num_ranks):
    sharded = check(Experts(run), (X,), num_ranks, INSIDE, whole=WHOLE)
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "down", 2) == chunks(HIDDEN, num_ranks)
    for rows, features in zip(held(sharded, "gate_up", 1), chunks(HIDDEN, num_ranks), strict=True):
        assert rows == [*features, *(HIDDEN + i for i in features)]


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("run", [batched, by_einsum])
def test_experts_cut_one_from_another_cost_one_sum(run, num_ranks):
    sharded = check(Experts(run), (X,), num_ranks, BY_EXPERT)
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "gate_up") == held(sharded, "down") == chunks(EXPERTS, num_ranks)


@pytest.mark.parametrize("plan", [{**INSIDE, **SHARED}, {**BY_EXPERT, **SHARED}], ids=["inside", "by expert"])
def test_shared_experts_join_the_sum(plan):
    sharded = check(Experts(batched, shared=True), (X,), 2, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "shared.down_proj.weight", 1) == chunks(HIDDEN, 2)


@pytest.mark.parametrize("run", RUNS)
def test_the_automatic_plan_cuts_experts_and_sums_once(run):
    sharded = check(Experts(run, shared=True), (X,), 2, whole=WHOLE)
    assert sum(kinds(sharded).values()) <= 2
    share = {w.name: max(w.rank_bytes) / w.num_bytes for w in sharded.weights}
    assert share["gate_up"] == share["down"] == share["shared.down_proj.weight"] == 0.5
