"""Vocabularies that do not divide: looked up where they lie, logits gathered once, or left cut on request."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import redraw
from tests.support.sharding import check, chunks, held, kinds

WORDS, WIDTH = 97, 16
IDS = torch.randint(1, WORDS, (2, 6), generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, *, tied=False, padding=None, positions=False):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=padding)
        self.positions = nn.Embedding(7, WIDTH) if positions else None
        self.head = nn.Linear(WIDTH, WORDS, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def hidden(self, ids):
        x = self.embed(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(ids.shape[1]))
        return torch.tanh(x)

    def forward(self, ids):
        return self.head(self.hidden(ids))


PLAN = {"embed": "embedding_rowwise", "head": "colwise_rep"}


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("padding", [None, 0])
def test_97_words_are_looked_up_where_they_lie_and_logits_are_gathered_once(padding, num_ranks):
    sharded = check(Model(padding=padding), (IDS,), num_ranks, PLAN)
    assert kinds(sharded) == {"all_reduce": 1, "all_gather": 1}
    for name in ("embed.weight", "head.weight", "head.bias"):
        assert held(sharded, name) == chunks(WORDS, num_ranks)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("plan", [{"embed": "embedding_rowwise"}, {"head": "colwise"}], ids=["embed", "head"])
def test_a_tied_table_lies_alike_for_both_its_uses(plan, num_ranks):
    sharded = check(Model(tied=True), (IDS,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1, "all_gather": 1}
    assert held(sharded, "embed.weight") == held(sharded, "head.weight") == chunks(WORDS, num_ranks)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_97_words_are_left_cut_on_request(tied):
    sharded = check(Model(tied=tied), (IDS,), 3, {"embed": "embedding_rowwise"}, outputs=sw.Shard(-1))
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "head.weight") == chunks(WORDS, 3)
    pieces = sharded.simulate(IDS)
    assert [piece.shape[-1] for piece in pieces] == [33, 33, 31]
    torch.testing.assert_close(torch.cat(pieces, -1), redraw(Model(tied=tied)).double()(IDS))


def test_tables_of_words_and_of_positions_are_summed_at_once():
    sharded = check(Model(positions=True), (IDS,), 2, {"embed": "embedding_rowwise", "positions": "embedding_rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "positions.weight") == chunks(7, 2)


def test_a_table_cut_by_features_is_gathered_once():
    sharded = check(Model(), (IDS,), 3, {"embed": "embedding_colwise"})
    assert held(sharded, "embed.weight", 1) == chunks(WIDTH, 3)
    assert kinds(sharded) == {"all_gather": 1}
