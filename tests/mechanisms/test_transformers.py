"""Architectures from transformers, tiny and with random weights, sharded without a line of code for any of them."""

from collections import Counter

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.architectures import IDS, build

SEQUENTIAL = ["llama", "gpt2", "opt", "phi3", "bert", "stablelm", "mistral", "qwen2"]
PARALLEL = ["gpt_neox", "falcon", "cohere"]
EXPERTS = ["mixtral", "qwen2_moe"]


@pytest.mark.parametrize("kind", [*SEQUENTIAL, *PARALLEL, *EXPERTS])
def test_the_automatic_plan_shards_and_matches(kind):
    exported = torch.export.export(build(kind), (IDS,))
    for num_ranks in (2, 4):
        sharded = sw.shard(exported, mesh=num_ranks)
        report = sw.verify(sharded, exported, (IDS,), tolerance=1e-5)
        assert report.ok, str(report)
        whole = sum(w.num_bytes for w in sharded.weights)
        assert (
            max(sum(w.rank_bytes[rank] for w in sharded.weights) for rank in range(num_ranks)) < 1.2 * whole / num_ranks
        )
        counts = Counter(c.kind for c in sharded.collectives)
        if kind in SEQUENTIAL:
            # Two a layer, one or two for the embeddings, one for the logits.
            assert counts.total() <= 2 * 2 + 3
        if kind in PARALLEL:
            assert counts.total() <= 1 * 2 + 3


ALIKE = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "opt", "phi3", "stablelm", "olmo", "starcoder2"]
SIDE_BY_SIDE = ["gpt_neox", "cohere", "phi"]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", [*ALIKE, *SIDE_BY_SIDE])
def test_a_model_costs_what_an_expert_would_spend(kind, depth):
    """Two all-reduces a block, one where attention and MLP stand side by side; one for embeddings, one for logits."""
    ids = torch.randint(3, 512, (2, 16), generator=torch.Generator().manual_seed(5))
    model = build(kind, num_hidden_layers=depth, n_layer=depth, vocab_size=512)
    # Little slack, so that embeddings and head are cut too.
    sharded = sw.shard(torch.export.export(model, (ids,)), mesh=2, slack=0.03)
    hidden, logits = 2 * 16 * 64 * 4, 2 * 16 * 512 * 4
    counts = Counter((c.kind, c.num_bytes) for c in sharded.collectives)
    in_blocks = depth * (1 if kind in SIDE_BY_SIDE else 2)
    assert counts.pop(("all_gather", logits)) == 1
    # The embedding is summed (cut on its vocabulary) or gathered (cut on its features).
    embedding = counts.pop(("all_gather", hidden), 0)
    assert counts == {("all_reduce", hidden): in_blocks + 1 - embedding}
    assert embedding <= 1


def test_weights_that_nothing_reads_are_stored_cut():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            self.unread = nn.Linear(256, 256)
            self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

        def forward(self, x):
            return self.down(self.up(x).relu())

    x = torch.randn(4, 16)
    exported = torch.export.export(TwoTowers(), (x,))
    sharded = sw.shard(exported, mesh=2)
    share = {w.name: w.rank_bytes[0] / w.num_bytes for w in sharded.weights if len(w.shape) == 2}
    assert share == {"unread.weight": 0.5, "up.weight": 0.5, "down.weight": 0.5}
    assert sw.verify(sharded, exported, (x,)).ok
    sharded.exported(1).validate()
