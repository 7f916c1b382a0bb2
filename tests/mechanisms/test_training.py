"""Joint programs on ranks: the loss and every gradient of one process, gradients lying as their parameters."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shardwright as sw
from shardwright.program.simulate import draws_random_numbers
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.training import BATCH, IDS, check, counted, cut_batch, next_token


def test_a_decoder_block_has_four_all_reduces_as_megatron_has():
    sharded = check(redraw(Decoder(layers=2)).train(), IDS, 2, MEGATRON)
    assert counted(sharded) == {("tp", "all_reduce"): 8}
    places = Counter(c.module.split(".")[1] for c in sharded.collectives)
    assert places == {"0": 4, "1": 4}
    assert sharded.fallbacks == []


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_an_automatic_plan(num_ranks):
    check(redraw(Decoder(layers=1)).train(), IDS, num_ranks)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_tied_vocabulary_is_cut(num_ranks):
    model = redraw(Decoder(layers=1, heads=6, kv_heads=3, width=48, tied=True)).train()
    sharded = check(model, IDS, num_ranks, {**MEGATRON, "embed": "rowwise"})
    layouts = {w.name: w.layouts["tp"] for w in sharded.weights}
    assert isinstance(layouts["embed.weight"], sw.Shard)
    assert layouts["embed.weight"] == layouts["lm_head.weight"]


@pytest.mark.parametrize("vocabulary", ["lm_head", "embed"])
def test_what_is_kept_for_the_backward_pass_is_no_output_of_a_module(vocabulary):
    """The head gives whole logits; that its weight is read again later does not make it whole."""
    plan = {**MEGATRON, "lm_head": "colwise_rep"} if vocabulary == "lm_head" else {**MEGATRON, "embed": "rowwise"}
    sharded = check(redraw(Decoder(layers=1, tied=True, vocab=512)).train(), IDS, 2, plan)
    assert not sharded.gathered_weights
    # Rows of the embedding, logits, the hidden states' gradient; and four of the block.
    assert counted(sharded) == {("tp", "all_reduce"): 6, ("tp", "all_gather"): 1}


def test_a_large_vocabulary_is_not_gathered_for_the_loss():
    model = redraw(Decoder(layers=1, vocab=4096)).train()
    cost = sw.CostModel(latency_us=0.01, link_bytes_per_us=1e3)
    sharded = check(model, IDS, 2, {**MEGATRON, "lm_head": "colwise"}, cost=cost)
    logits = IDS[0].numel() * 4096 * 8
    assert max(c.num_bytes for c in sharded.collectives) < logits / 8


def test_data_parallel_gradients_are_added_up_once():
    model = redraw(Decoder(layers=1)).train()
    plan, inputs = {"tp": MEGATRON}, {"dp": cut_batch()}
    sharded = check(model, BATCH, {"dp": 2, "tp": 2}, plan, inputs=inputs)
    # Each of the gradients, the summed loss and the number of targets.
    along_dp = len(list(model.parameters())) + 2
    assert counted(sharded) == {("tp", "all_reduce"): 4, ("dp", "all_reduce"): along_dp}


def test_batches_of_different_sizes():
    check(redraw(Decoder(layers=1)).train(), BATCH, {"dp": 3}, {}, inputs=cut_batch())


def test_a_batch_is_brought_together_only_where_every_sample_meets_all_others():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(12, 64), nn.Linear(64, 8)

        def forward(self, x):
            vectors = F.normalize(self.down(F.gelu(self.up(x))), dim=-1)
            return vectors @ vectors.T

    args = (torch.randn(6, 12), torch.arange(6))
    inputs = {"x": sw.Shard(0), "target": sw.Shard(0)}
    sharded = check(redraw(Pairs()).train(), args, {"dp": 2}, {}, loss=F.cross_entropy, inputs=inputs)
    summed = {c.shape for c in sharded.collectives if c.kind == "all_reduce"}
    # The gradients of both layers: the layers themselves run on parts.
    assert {(64, 12), (8, 64)} <= summed


@pytest.mark.parametrize("plan", [{"layers.*.mlp.down_proj.weight": sw.Partial()}, {"norm.weight": sw.Partial()}])
def test_what_is_trained_is_no_part_of_a_sum(plan):
    exported = sw.export_training(redraw(Decoder(layers=1)).train(), IDS, loss=next_token)
    with pytest.raises(sw.PlanError, match=r"a part of a sum on every rank, and it is trained: optimisers step"):
        sw.shard(exported, mesh=2, plan=plan)


def test_weights_cut_over_the_batch_axis_are_gathered_and_gradients_scattered():
    model = redraw(Decoder(layers=1)).train()
    with pytest.warns(sw.GatherWarning):
        sharded = check(model, BATCH, {"dp": 2}, {"layers.0.mlp.*": sw.Shard(0)}, inputs=cut_batch())
    found = counted(sharded)
    assert found["dp", "all_gather"] == 3
    assert found["dp", "reduce_scatter"] == 3
    assert found["dp", "all_reduce"] == len(list(model.parameters())) - 3 + 2


class Image(nn.Module):
    """Batch statistics, whose gradients need the whole batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.group = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.group(self.norm(self.conv(x)))), 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(
    ("mesh", "plan", "options"),
    [({"tp": 2}, "auto", {}), ({"dp": 2}, {}, {"inputs": {"x": sw.Shard(0), "target": sw.Shard(0)}})],
    ids=["tp", "dp"],
)
def test_buffers_and_gradients_of_batch_norm(mesh, plan, options):
    args = (torch.randn(6, 3, 10, 10), torch.tensor([0, 4, 2, 2, 1, 3]))
    sharded = check(Image().train(), args, mesh, plan, loss=F.cross_entropy, **options)
    simulation = sharded.simulation()
    simulation.run_flat(sharded.rank_inputs([args[0].double(), args[1]]))
    states = [state["norm.running_mean"] for state in simulation.state]
    assert all(state.abs().sum() > 0 for state in states)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_convolutions_of_groups_and_transposed_ones_stay_cut(num_ranks):
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.SiLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.GELU(),
        nn.ConvTranspose2d(12, 12, 2, stride=2, groups=6),
        nn.Sigmoid(),
        nn.Conv2d(12, 5, 3),
    )
    args = (torch.randn(2, 3, 5, 4), torch.randn(2, 5, 8, 6))
    groups = {"4.weight": sw.Shard(0), "4.bias": sw.Shard(0)}
    plan = {"0": "colwise", "2": "colwise", **groups, "6": "rowwise"}
    sharded = check(model, args, num_ranks, plan, loss=F.mse_loss)
    assert sharded.fallbacks == []
    assert not sharded.gathered_weights
    # Of what the last one gives.
    assert counted(sharded) == {("tp", "all_reduce"): 1}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_losses_without_classes(reduction):
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
    args = (torch.randn(5, 6), torch.randn(5, 4))
    for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss):
        check(
            model,
            args,
            {"dp": 2, "tp": 2},
            {"tp": {"0": "colwise", "2": "rowwise"}},
            inputs={"dp": sw.Shard(0)},
            loss=lambda out, y, loss=loss: loss(out, y, reduction=reduction),
        )


ANY_ROWS = ({0: torch.export.Dim("n")},) * 2


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_rank_without_classes_in_batches_of_any_size(reduction):
    model = nn.Sequential(nn.Linear(8, 5))
    args = (torch.randn(64, 8), torch.arange(64) % 5)
    plan = {"0": "colwise"}
    check(model, args, 4, plan, loss=lambda x, y: F.nll_loss(x, y, reduction=reduction).sum(), dynamic=ANY_ROWS)


def test_a_rank_without_features_of_a_batch_norm_in_batches_of_any_size():
    model = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 8)).train()
    args = (torch.randn(64, 8), torch.randn(64, 8))
    check(model, args, 4, {"0": "colwise", "2": "rowwise"}, loss=lambda x, y: (x * y).sum(), dynamic=ANY_ROWS)


class Dropped(nn.Module):
    """Dropout where the layout is cut, and where it is whole."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(12, 30), nn.Linear(30, 12), nn.Dropout(0.25)

    def forward(self, x):
        return x + self.drop(self.down(self.drop(F.gelu(self.up(self.drop(x))))))


@pytest.mark.parametrize(
    ("mesh", "inputs"), [({"tp": 2}, None), ({"tp": 4}, None), ({"dp": 2, "tp": 2}, {"dp": sw.Shard(0)})]
)
def test_dropout_draws_what_one_process_draws(mesh, inputs):
    args = (torch.randn(5, 12), torch.randn(5, 12))
    plan = {"tp": {"up": "colwise", "down": "rowwise"}}
    sharded = check(redraw(Dropped()).train(), args, mesh, plan, loss=F.mse_loss, inputs=inputs)
    assert sharded.fallbacks == []
    # Behind `down`; the inputs of `up` need no gradient.
    assert counted(sharded)["tp", "all_reduce"] == 1


def test_a_simulation_keeps_the_gradients_of_its_last_call():
    joint = sw.export_training(redraw(Decoder(layers=1)).train(), IDS, loss=next_token)
    sharded = sw.shard(joint, mesh=2, plan=MEGATRON)
    simulation = sharded.simulation()
    losses = simulation(*IDS)
    assert all(loss.shape == () for loss in losses)
    for rank, gradients in enumerate(simulation.gradients):
        assert {name: g.shape for name, g in gradients.items()} == {
            name: simulation.state[rank][name].shape for name in gradients
        }


class Attention(nn.Module):
    """One head, whose weights are dropped at a rate."""

    def __init__(self, rate):
        super().__init__()
        self.qkv, self.rate = nn.Linear(8, 24), rate

    def forward(self, x):
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), dropout_p=self.rate)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_attention_draws_numbers_where_it_drops_weights(rate):
    """Programs that draw none need no stream that ranks share, and may be compiled."""
    args = (torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    sharded = sw.shard(sw.export_training(Attention(rate), args, loss=F.mse_loss), mesh=2)
    assert draws_random_numbers(sharded.rank_program(0)) is (rate > 0)
