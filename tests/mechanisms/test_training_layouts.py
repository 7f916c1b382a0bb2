"""Gradients under layouts that people train with: sequence parallel, three axes, ZeRO, experts, batches of any size."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.architectures import build
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.training import BATCH, IDS, check, counted, cut_batch, next_token

SEQUENCE = {**MEGATRON, "layers.*.norm[12]": "sequence_parallel", "norm": "sequence_parallel"}
ATTENTION = {key: style for key, style in MEGATRON.items() if "attn" in key}
MLP = {key: style for key, style in MEGATRON.items() if "mlp" in key}
NUM_WEIGHTS = 12
"""Of a decoder of one layer."""
ALONG_DP = NUM_WEIGHTS + 2
"""Each of the gradients, the summed loss and the number of targets."""


def decoder(**sizes):
    return redraw(Decoder(**{"layers": 1, **sizes})).train()


@pytest.mark.parametrize(("layers", "num_ranks"), [(1, 2), (2, 2), (1, 4)])
def test_norms_on_a_cut_sequence(layers, num_ranks):
    sharded = check(decoder(layers=layers), IDS, num_ranks, SEQUENCE)
    # Two pairs a block, forward and backward; the last norm's tokens for the head, and their gradients' way back.
    assert counted(sharded) == {
        ("tp", "reduce_scatter"): 4 * layers,
        ("tp", "all_gather"): 4 * layers + 2,
        # Of the norms' weights, which every rank has seen by its own tokens alone.
        ("tp", "all_reduce"): 2 * layers + 1,
    }
    assert not sharded.gathered_weights


def test_a_cut_sequence_of_a_part_of_a_batch():
    sharded = check(decoder(), BATCH, {"dp": 2, "tp": 2}, {"tp": SEQUENCE}, inputs={"dp": cut_batch()})
    assert counted(sharded)["dp", "all_reduce"] == ALONG_DP
    assert counted(sharded)["tp", "reduce_scatter"] == 4


def test_three_axes():
    plan = {"tp": ATTENTION, "x": MLP}
    sharded = check(decoder(), BATCH, {"dp": 2, "tp": 2, "x": 2}, plan, inputs={"dp": cut_batch()})
    assert counted(sharded) == {("tp", "all_reduce"): 2, ("x", "all_reduce"): 2, ("dp", "all_reduce"): ALONG_DP}


def test_batches_of_any_size():
    rows = 2 * torch.export.Dim("rows", min=1, max=32)
    model = decoder().double()
    joint = sw.export_training(model, BATCH, loss=next_token, dynamic_shapes=({0: rows},) * 2)
    sharded = sw.shard(joint, mesh={"dp": 2, "tp": 2}, plan={"tp": MEGATRON}, inputs={"dp": cut_batch()})
    assert counted(sharded) == {("tp", "all_reduce"): 4, ("dp", "all_reduce"): ALONG_DP}
    for size in (2, 4, 10):
        ids = torch.arange(size * 8).view(size, 8) * 7 % 96
        report = sw.verify(sharded, joint, (ids, ids.flip(0)), tolerance=1e-9)
        assert report.ok, str(report)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_matrix_cut_over_the_batch_axis(num_ranks):
    plan = {"layers.**.weight": sw.Shard(0), "lm_head": sw.Shard(0), "embed": sw.Shard(0), "norm": sw.Shard(0)}
    with pytest.warns(sw.GatherWarning):
        sharded = check(decoder(), BATCH, {"dp": num_ranks}, plan, inputs=cut_batch())
    assert counted(sharded) == {
        ("dp", "all_gather"): NUM_WEIGHTS,
        ("dp", "reduce_scatter"): NUM_WEIGHTS,
        ("dp", "all_reduce"): 2,
    }
    assert all(isinstance(weight.layouts["dp"], sw.Shard) for weight in sharded.weights if weight.kind == "parameter")


def test_matrices_cut_over_both_axes():
    """Each along the dim that the other axis leaves whole."""
    stored = {"layers.*.mlp.[gate,up]_proj.weight": sw.Shard(1), "layers.*.mlp.down_proj.weight": sw.Shard(0)}
    plan = {"dp": stored, "tp": MEGATRON}
    with pytest.warns(sw.GatherWarning):
        sharded = check(decoder(), BATCH, {"dp": 2, "tp": 2}, plan, inputs={"dp": cut_batch()})
    assert counted(sharded) == {
        ("tp", "all_reduce"): 4,
        ("dp", "all_gather"): 3,
        ("dp", "reduce_scatter"): 3,
        ("dp", "all_reduce"): ALONG_DP - 3,
    }


@pytest.mark.parametrize("mesh", [{"tp": 2}, {"dp": 2, "tp": 2}])
def test_tied_weights_are_cut_alike(mesh):
    model = decoder(tied=True)
    sharded = check(model, BATCH, mesh, {"tp": {**MEGATRON, "embed": "rowwise"}}, inputs=on_dp(mesh))
    layouts = {weight.name: weight.layouts["tp"] for weight in sharded.weights}
    assert isinstance(layouts["embed.weight"], sw.Shard)
    assert layouts["embed.weight"] == layouts["lm_head.weight"]
    assert len(sharded.simulation().state[0]["embed.weight"]) == 96 // 2


def on_dp(mesh):
    return {"dp": cut_batch()} if "dp" in mesh else None


BY_EXPERT = {"**.experts.gate_up_proj": sw.Shard(0), "**.experts.down_proj": sw.Shard(0)}
INSIDE = {"**.experts.gate_up_proj": sw.Shard(1, sw.Blocks(parts=(128, 128))), "**.experts.down_proj": sw.Shard(2)}


@pytest.mark.parametrize(
    ("kind", "mesh", "plan", "sums"),
    [
        ("mixtral", {"tp": 2}, BY_EXPERT, 4),
        ("mixtral", {"tp": 4}, BY_EXPERT, 4),
        ("mixtral", {"tp": 2}, INSIDE, 2),
        ("qwen3_moe", {"dp": 2, "tp": 2}, BY_EXPERT, 4),
    ],
)
def test_experts_stay_where_they_are(kind, mesh, plan, sums):
    """Cut by expert or inside: rows and their gradients are summed, weights are not gathered."""
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    model = build(kind, num_hidden_layers=1).double().train()
    joint = sw.export_training(model, BATCH, loss=next_token)
    sharded = sw.shard(joint, mesh=mesh, plan={"tp": plan}, inputs=on_dp(mesh))
    # Its norms compute in single precision.
    report = sw.verify(sharded, joint, BATCH, tolerance=1e-6)
    assert report.ok, str(report)
    assert not sharded.gathered_weights
    assert {key: count for key, count in counted(sharded).items() if key[0] == "tp"} == {("tp", "all_reduce"): sums}


def test_gradients_of_parts_of_a_batch_add_up():
    """Gradient accumulation: two calls of a step give what one call of both batches gives."""
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)).double()
    args = (torch.randn(8, 6).double(), torch.randn(8, 6).double())

    def squares(out, target):
        return (out - target).square().sum()

    rows = ({0: torch.export.Dim("rows")},) * 2
    joint = sw.export_training(model, args, loss=squares, dynamic_shapes=rows)
    sharded = sw.shard(joint, mesh=2, plan={"0": "colwise", "2": "rowwise"})
    simulation = sharded.simulation()
    parts = []
    for part in zip(*(one.split((3, 5)) for one in args), strict=True):
        simulation(*part)
        parts.append([dict(gradients) for gradients in simulation.gradients])
    simulation(*args)
    for rank, whole in enumerate(simulation.gradients):
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[0][rank][name] + parts[1][rank][name], gradient)
