"""Norms on a cut sequence: what was one sum is a reduce-scatter and a gather, and every rank norms its own tokens."""

import pytest
import torch
from torch.distributed.tensor.parallel import SequenceParallel

import shardwright as sw
from tests.support.models import MEGATRON, Decoder
from tests.support.sharding import check, chunks, held, kinds

TOKENS = 8
IDS = torch.randint(0, 96, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def plan(style="sequence_parallel", **more):
    return {**MEGATRON, "layers.*.norm[12]": style, "norm": style, **more}


def normed_tokens(sharded, rank):
    """How many tokens every norm of a rank sees."""
    nodes = sharded.exported(rank).graph.nodes
    return {n.meta["val"].shape[1] for n in nodes if "rsqrt" in str(n.target)}


@pytest.mark.parametrize("style", ["sequence_parallel", SequenceParallel, SequenceParallel(sequence_dim=1)])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_pair_in_place_of_a_sum(style, num_ranks):
    sharded = check(Decoder(layers=2), (IDS,), num_ranks, plan(style))
    # What the last norm gives is gathered for the head; what enters the first is cut where it lies.
    assert kinds(sharded) == {"reduce_scatter": 2 * 2, "all_gather": 2 * 2 + 1}
    for rank in (0, num_ranks - 1):
        assert normed_tokens(sharded, rank) == {TOKENS // num_ranks}
    assert held(sharded, "layers.0.norm1.weight") == [list(range(64))] * num_ranks


def test_a_vocabulary_that_is_cut_is_scattered_too():
    sharded = check(Decoder(layers=1), (IDS,), 2, plan(embed="embedding_rowwise", lm_head="colwise_rep"))
    # The look-up and two in the block; two in the block, the last norm and the logits.
    assert kinds(sharded) == {"reduce_scatter": 3, "all_gather": 4}
    assert held(sharded, "embed.weight") == held(sharded, "lm_head.weight") == chunks(96, 2)
    assert normed_tokens(sharded, 1) == {TOKENS // 2}


def test_a_block_side_by_side_has_one_pair():
    sharded = check(Decoder(layers=2, parallel=True), (IDS,), 2, plan())
    # Each of a block's two norms is gathered for its readers, and the last norm.
    assert kinds(sharded) == {"reduce_scatter": 2, "all_gather": 2 * 2 + 1}


@pytest.mark.parametrize(("tokens", "num_ranks"), [(7, 2), (5, 4)])
def test_tokens_that_do_not_divide_are_cut_as_chunks_are(tokens, num_ranks):
    sharded = check(Decoder(layers=1), (IDS[:, :tokens].contiguous(),), num_ranks, plan())
    assert kinds(sharded) == {"reduce_scatter": 2, "all_gather": 3}
    sizes = [len(mine) for mine in chunks(tokens, num_ranks)]
    for rank, size in enumerate(sizes):
        assert normed_tokens(sharded, rank) <= {size}


class Normed(torch.nn.Module):
    """Two norms about a pair of layers, and a head, without heads that views would name."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(8), torch.nn.RMSNorm(8)
        self.up, self.down, self.head = torch.nn.Linear(8, 12), torch.nn.Linear(12, 8), torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm2(x + self.down(torch.relu(self.up(self.norm1(x))))))


@pytest.mark.parametrize("tokens", [1, 2, 3, 7])
def test_fewer_tokens_than_ranks_cost_what_many_do(tokens):
    layers = {"norm[12]": "sequence_parallel", "up": "colwise", "down": "rowwise"}
    sharded = check(Normed(), (torch.randn(2, tokens, 8),), 4, layers)
    assert kinds(sharded) == {"all_gather": 2, "reduce_scatter": 1}


def test_one_token_that_is_given_to_one_rank():
    exported = torch.export.export(Normed(), (torch.randn(2, 1, 8),))
    cut = {"inputs": {"x": sw.Shard(1)}, "outputs": sw.Shard(1)}
    sharded = sw.shard(exported, mesh=4, plan={}, **cut)
    assert kinds(sharded) == {}


def test_a_sequence_of_unknown_length_is_not_cut():
    length = torch.export.Dim("length", min=2, max=64)
    with pytest.raises(
        sw.PlanError, match=r"not known to be a multiple of 2 ranks\n  try: export this dim as 2 \* torch"
    ):
        check(Decoder(layers=1), (IDS,), 2, plan(), dynamic=({1: length},))


def test_a_sequence_of_so_many_pairs_is_cut():
    pairs = 2 * torch.export.Dim("pairs", min=2, max=32)
    sharded = check(Decoder(layers=1), (IDS,), 2, plan(), dynamic=({1: pairs},))
    assert kinds(sharded) == {"reduce_scatter": 2, "all_gather": 3}
