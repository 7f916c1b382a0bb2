"""Bags of embeddings whose rows are cut: every rank takes those it holds, and one small all-reduce makes the bags."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.sharding import check, chunks, held, kinds

ROWS, WIDTH = 97, 8
IDS = torch.randint(0, ROWS, (4, 7), generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([0, 3, 3, 10])
PLAN = {"bag.weight": sw.Shard(0)}


class Bags(nn.Module):
    def __init__(self, mode, **options):
        super().__init__()
        self.bag = nn.EmbeddingBag(ROWS, WIDTH, mode=mode, **options)

    def forward(self, ids, starts=None, weights=None):
        return self.bag(ids, starts, weights)


def bags_are_reduced_once(sharded, num_ranks):
    assert held(sharded, "bag.weight") == chunks(ROWS, num_ranks)
    assert [(c.kind, c.num_bytes) for c in sharded.collectives] == [("all_reduce", 4 * WIDTH * 8)]


@pytest.mark.parametrize("num_ranks", [2, 3, 7])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_rows_are_cut_in_every_mode_and_form(mode, num_ranks):
    bags_are_reduced_once(check(Bags(mode, padding_idx=3), (IDS,), num_ranks, PLAN), num_ranks)
    bags_are_reduced_once(check(Bags(mode), (IDS.flatten(), STARTS), num_ranks, PLAN), num_ranks)
    ends = torch.cat([STARTS, torch.tensor([28])])
    last = Bags(mode, include_last_offset=True)
    bags_are_reduced_once(check(last, (IDS.flatten(), ends), num_ranks, PLAN), num_ranks)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_what_decomposition_makes_of_bags_is_cut_too(mode):
    exported = torch.export.export(Bags(mode, padding_idx=3), (IDS,)).run_decompositions()
    sharded = sw.shard(exported, mesh=3, plan=PLAN)
    assert sw.verify(sharded, exported, (IDS,), tolerance=1e-6).ok
    assert kinds(sharded) == {"all_reduce": 1}


def test_entries_have_weights_of_their_own():
    weights = torch.randn(28, generator=torch.Generator().manual_seed(1))
    bags_are_reduced_once(check(Bags("sum"), (IDS.flatten(), STARTS, weights), 3, PLAN), 3)


def test_the_number_of_bags_may_be_dynamic():
    dynamic = ({0: torch.export.Dim("bags", min=2, max=64)},)
    sharded = check(Bags("mean", padding_idx=3), (IDS,), 2, PLAN, dynamic=dynamic)
    assert kinds(sharded) == {"all_reduce": 1}
    for count in (2, 9):
        ids = torch.randint(0, ROWS, (count, 7), generator=torch.Generator().manual_seed(count))
        assert [tuple(out.shape) for out in sharded.simulate(ids)] == [(count, WIDTH)] * 2


def test_a_row_that_is_no_number_spoils_only_its_own_bag():
    model = Bags("sum")
    with torch.no_grad():
        model.bag.weight[0] = float("nan")
        model.bag.weight[90] = float("inf")
    ids = torch.tensor([[1, 2, 60], [0, 2, 60], [3, 90, 61], [4, 5, 6]])
    exported = torch.export.export(model, (ids,))
    out = sw.shard(exported, mesh=2, plan=PLAN).simulate(ids)[1]
    assert out.isfinite().all(1).tolist() == [True, False, False, True]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_features_are_cut_without_a_sum(num_ranks):
    sharded = check(Bags("max", padding_idx=3), (IDS,), num_ranks, {"bag.weight": sw.Shard(1)})
    assert kinds(sharded) == {"all_gather": 1}


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_that_are_renormed_in_place_are_whole_and_said_to_be(kind):
    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = kind(ROWS, WIDTH, max_norm=1.0)

        def forward(self, ids):
            return self.bag(ids)

    with torch.no_grad():
        exported = torch.export.export(Renormed(), (IDS,))
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    assert sw.verify(sharded, exported, (IDS,)).ok
    assert [f.op for f in sharded.fallbacks] == ["aten.embedding_renorm.default"]
