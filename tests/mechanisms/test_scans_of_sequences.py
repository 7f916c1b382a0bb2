"""Whole models that scan what is cut: a sequence, a vocabulary. A number a rank and row is gathered, nothing else."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.sharding import ONLY_BYTES_MATTER

F = nn.functional
BATCH, TOKENS, WIDTH, VOCABULARY = 2, 45, 8, 130


class Positions(nn.Module):
    """Token and position embeddings where padding has no position, as RoBERTa and OPT count them; a layer."""

    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TOKENS + 2, WIDTH)
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, ids, mask):
        place = mask.long().cumsum(1) * mask + 1
        x = self.norm(self.token(ids) + self.position(place))
        return x + self.down(F.gelu(self.up(x)))


class StateSpace(nn.Module):
    """Heads with a decay each, as Mamba-2 writes its steps without a loop: running sums of decays and of states."""

    heads, dim = 2, 4

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(WIDTH, self.heads)
        self.values, self.out = nn.Linear(WIDTH, self.heads * self.dim), nn.Linear(self.heads * self.dim, WIDTH)
        self.a_log = nn.Parameter(torch.zeros(self.heads))

    def forward(self, x):
        step = F.softplus(self.step(x))
        decay = (-torch.exp(self.a_log) * step).cumsum(1)
        values = self.values(x).unflatten(-1, (self.heads, self.dim)) * step[..., None]
        state = (values * torch.exp(-decay)[..., None]).cumsum(1) * torch.exp(decay)[..., None]
        return x + self.out(state.flatten(2))


class Nucleus(nn.Module):
    """A head, and a token drawn from its distribution by a number given: the first whose running sum passes it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x, drawn):
        share = self.head(x).softmax(-1).cumsum(-1)
        return (share < drawn).sum(-1), (share <= 0.9).sum(-1)


MASK = (torch.arange(TOKENS) >= torch.tensor([[7], [0]])).long()
IDS = torch.arange(BATCH * TOKENS).view(BATCH, TOKENS) % VOCABULARY
X = torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)).double() / 4


def sent(model, args, num_ranks, decompose, **layouts):
    """Kind and bytes of every collective of a program that gives the original's numbers."""
    torch.manual_seed(0)
    exported = torch.export.export(model.double().eval(), args)
    exported = exported.run_decompositions() if decompose else exported
    sharded = sw.shard(exported, mesh=num_ranks, cost=ONLY_BYTES_MATTER, **layouts)
    report = sw.verify(sharded, exported, args, tolerance=1e-9)
    assert report.ok, str(report)
    return [(c.kind, c.num_bytes) for c in sharded.collectives]


RANKS = pytest.mark.parametrize("num_ranks", [2, 3])
DECOMPOSED = pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
ALONG = sw.Shard(1)


@RANKS
@DECOMPOSED
def test_positions_of_a_cut_sequence(num_ranks, decompose):
    layouts = {"plan": {}, "inputs": {"ids": ALONG, "mask": ALONG}, "outputs": {0: ALONG}}
    assert sent(Positions(), (IDS, MASK), num_ranks, decompose, **layouts) == [("all_gather", num_ranks * BATCH * 8)]


@RANKS
@DECOMPOSED
def test_states_of_a_cut_sequence(num_ranks, decompose):
    layouts = {"plan": {}, "inputs": {"x": ALONG}, "outputs": {0: ALONG}}
    each = num_ranks * BATCH * StateSpace.heads * 8
    assert sent(StateSpace(), (X,), num_ranks, decompose, **layouts) == [
        ("all_gather", each),
        ("all_gather", each * StateSpace.dim),
    ]


@RANKS
@DECOMPOSED
def test_running_sums_over_a_cut_vocabulary(num_ranks, decompose):
    args = X[:, -1], torch.tensor([[0.3], [0.7]]).double()
    assert sent(Nucleus(), args, num_ranks, decompose, plan={"head": "colwise"}) == [
        ("all_reduce", BATCH * 8),
        ("all_reduce", BATCH * 8),
        ("all_gather", num_ranks * BATCH * 8),
        ("all_reduce", BATCH * 8),
        ("all_reduce", BATCH * 8),
    ]
