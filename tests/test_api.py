"""`shard`: what its arguments do, what it refuses, and what the result says."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
)
from torch.export import Dim

import shardwright as sw
from shardwright.assign.integer_program import IntegerProgram
from tests.support.models import (
    MEGATRON,
    Decoder,
    Gated,
    LinearNorm,
    LinearPlaces,
    MLPs,
    redraw,
)
from tests.support.sharding import check_as_given, kinds

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))


GLU_PLAN = {"blocks.*.[gate,up]_proj": "colwise", "blocks.*.down_proj": "rowwise"}


def test_four_glu_blocks_cost_four():
    assert kinds(check_as_given(redraw(Gated()), (torch.randn(3, 16),), 2, GLU_PLAN)) == {"all_reduce": 4}


def test_a_symbolic_dim_is_cut_where_its_divisibility_is_known():
    model = redraw(Gated(blocks=1))
    pair = {0: 2 * Dim("half", min=1, max=32)}
    x = torch.randn(4, 16)
    cut = {"inputs": {"x": sw.Shard(0)}, "outputs": sw.Shard(0)}
    sharded = check_as_given(model, (x,), 2, {}, dynamic=(pair,), **cut)
    assert kinds(sharded) == {}
    longer = torch.randn(10, 16)
    torch.testing.assert_close(torch.cat(sharded.simulate(longer)), model(longer))
    with pytest.raises(sw.PlanError, match="not known to be a multiple of 2"):
        check_as_given(model, (x,), 2, {}, dynamic=({0: Dim("any", min=2, max=32)},), **cut)


def test_three_dimensional_inputs_and_uneven_features():
    model = redraw(nn.Sequential(nn.Linear(10, 7), nn.GELU(), nn.Linear(7, 10)))
    sharded = check_as_given(model, (torch.randn(2, 3, 10),), 4, {"0": "colwise", "2": "rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}


def test_an_undecomposed_program_really_gets_its_weights_cut():
    exported = torch.export.export(redraw(MLPs()), (torch.randn(4, 12),))
    plan = {f"mlps.{i}.{j}": style for i in (0, 1) for j, style in ((0, ColwiseParallel), (2, RowwiseParallel))}
    for rank in range(2):
        local = sw.tensor_parallel_transformation(exported, rank, 2, "cpu", plan)
        assert local.state_dict["mlps.0.0.weight"].shape == (9, 6)
        assert local.state_dict["mlps.0.2.weight"].shape == (6, 9)


def test_off_line_sharding_gives_every_rank_its_own_weights():
    model = redraw(MLPs())
    exported = torch.export.export(model, (torch.randn(4, 12),))
    sharded = sw.shard(exported, mesh=2, plan={"mlps.*.0": "colwise", "mlps.*.2": "rowwise"})
    pieces = [sharded.exported(rank).state_dict["mlps.1.0.weight"] for rank in range(2)]
    assert torch.equal(torch.cat(pieces), model.mlps[1][0].weight)
    assert isinstance(pieces[0], nn.Parameter)


def test_instances_equal_classes():
    inputs = (torch.randn(3, 16),)
    by_class = {"blocks.*.[gate,up]_proj": ColwiseParallel, "blocks.*.down_proj": RowwiseParallel}
    by_instance = {"blocks.*.[gate,up]_proj": ColwiseParallel(), "blocks.*.down_proj": RowwiseParallel()}
    model = redraw(Gated())
    graphs = [str(check_as_given(model, inputs, 2, plan).exported(1).graph) for plan in (by_class, by_instance)]
    assert graphs[0] == graphs[1]


def test_layout_arguments_are_honoured():
    model, inputs = redraw(Gated(blocks=1)), (torch.randn(4, 6, 16),)
    gathered = ColwiseParallel(output_layouts=TorchReplicate())
    whole = {"blocks.0.[gate,up]_proj": gathered, "blocks.0.down_proj": "rowwise"}
    assert kinds(check_as_given(model, inputs, 2, whole)) == {"all_gather": 2, "all_reduce": 1}
    scattered = {**GLU_PLAN, "blocks.*.down_proj": RowwiseParallel(output_layouts=TorchShard(1))}
    assert kinds(check_as_given(model, inputs, 2, scattered)) == {"reduce_scatter": 1, "all_gather": 1}
    prepared = {
        **GLU_PLAN,
        "blocks.0": PrepareModuleOutput(output_layouts=TorchReplicate(), desired_output_layouts=TorchShard(0)),
    }
    assert kinds(check_as_given(model, inputs, 2, prepared)) == {"reduce_scatter": 1, "all_gather": 1}
    entering = {
        **GLU_PLAN,
        "blocks.0": PrepareModuleInput(input_layouts=TorchReplicate(), desired_input_layouts=TorchShard(1)),
    }
    assert kinds(check_as_given(model, inputs, 2, entering)) == {"all_gather": 1, "all_reduce": 1}


def test_uneven_batch_norm_and_an_operator_without_a_rule():
    for model in (LinearNorm(), LinearPlaces()):
        sharded = check_as_given(model, (torch.randn(7, 3),), 4, {"fc": ColwiseParallel})
        assert kinds(sharded) == {"all_gather": 1}
    assert [f.op for f in sharded.fallbacks] == ["shardwright_tests.places_in_rows.default"]
    assert "no rule" in sharded.collectives[0].cause


def test_entries_that_disagree_on_a_tied_weight():
    exported = torch.export.export(redraw(Decoder(tied=True)), (IDS,))
    with pytest.raises(sw.PlanError, match=r"'embed.weight' and 'lm_head.weight' are one tied tensor"):
        sw.shard(exported, mesh=2, plan={"embed": "embedding_colwise", "lm_head": "colwise"})


def test_every_collective_says_where_and_why():
    sharded = check_as_given(redraw(Decoder(layers=1)), (IDS,), 2, MEGATRON)
    for c in sharded.collectives:
        assert c.axis == "tp"
        assert c.num_bytes == 2 * 8 * 64 * 4
        assert "models.py:" in c.source
        assert c.plan_key in c.cause
    assert [c.module for c in sharded.collectives] == ["layers.0.self_attn.o_proj", "layers.0.mlp.down_proj"]
    assert [c.plan_key for c in sharded.collectives] == ["layers.*.self_attn.o_proj", "layers.*.mlp.down_proj"]


def test_a_budget_names_the_cause():
    exported = torch.export.export(redraw(Decoder()), (IDS,))
    sw.shard(exported, mesh=2, plan=MEGATRON, budget={"all_reduce": 4})
    says = r"(?s)all_reduce on axis 'tp' \(4 in all.*allows 3.*layers.0.self_attn.o_proj"
    with pytest.raises(sw.BudgetError, match=says):
        sw.shard(exported, mesh=2, plan=MEGATRON, budget={"all_reduce": 3})
    with pytest.raises(sw.ShardwrightError, match="unknown kind of collective 'allreduce'"):
        sw.shard(exported, mesh=2, plan=MEGATRON, budget={"allreduce": 3})


def test_shard_refuses_what_it_cannot_read():
    with pytest.raises(sw.ProgramError, match=r"expected a torch.export.ExportedProgram, got Linear"):
        sw.shard(nn.Linear(2, 2), mesh=2)
    exported = torch.export.export(redraw(Gated()), (torch.randn(3, 16),))
    with pytest.raises(sw.PlanError, match="the program has no input 'y'"):
        sw.shard(exported, mesh=2, plan={}, inputs={"y": sw.Shard(0)})
    with pytest.raises(sw.PlanError, match="neither 'auto', 'hf', 'diffusers' nor a file"):
        sw.shard(exported, mesh=2, plan="atuo")
    with pytest.raises(sw.InputError, match="must have shape"):
        sw.shard(exported, mesh=2).simulate(torch.randn(4, 16))


def test_an_answer_that_is_not_proven_the_best_is_a_warning(monkeypatch):
    solved = IntegerProgram.minimize
    monkeypatch.setattr(IntegerProgram, "minimize", lambda self, *given: replace(solved(self, *given), gap=0.25))
    with pytest.warns(sw.SolverWarning, match=r"may cost up to 25% more than the best"):
        sharded = sw.shard(torch.export.export(redraw(Decoder()), (IDS,)), mesh=2)
    assert sharded.gap == 0.25


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x, mask):
        return self.down(self.up(x).relu() + mask)


class MaskedLayers(nn.Module):
    """Two equal layers, each with a mask of its own from outside."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Masked(), Masked()])

    def forward(self, x, first, second):
        return self.layers[1](self.layers[0](x, first), second)


@pytest.mark.parametrize("shapes", [((4, 1), (4, 12)), ((4, 12), (4, 1)), ((12,), (4, 12))])
def test_layers_whose_masks_broadcast_otherwise_are_told_apart(shapes):
    inputs = (torch.randn(4, 8), *map(torch.randn, shapes))
    check_as_given(redraw(MaskedLayers()), inputs, 2, {"layers.*.up": "colwise", "layers.*.down": "rowwise"})


def test_group_names_of_axes_that_are_not_there():
    sharded = check_as_given(
        redraw(Masked()), (torch.randn(4, 8), torch.randn(12)), 2, {"up": "colwise", "down": "rowwise"}
    )
    with pytest.raises(sw.ShardwrightError, match="group_names: the mesh has no axis 'pt'\n  try: tp"):
        sharded.exported(0, group_names={"pt": "x"})
