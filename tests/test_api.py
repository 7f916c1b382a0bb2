"""Whole programs: right numbers, the collectives an expert would write, and what PyTorch's own function gets wrong."""

import os
import subprocess
import sys
from collections import Counter
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
    SequenceParallel,
)
from torch.export import Dim

import shardwright as sw
from shardwright.assign import highs
from tests.support.models import (
    MEGATRON,
    Cache,
    Decoder,
    Gated,
    LinearNorm,
    LinearPlaces,
    MLPs,
    PackedAttention,
    redraw,
)

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))


def check(model, args, mesh, plan, *, kwargs=None, decompose=False, dynamic=None, tolerance=1e-5, **options):
    """Shard, verify on all ranks, validate every rank's program; the sharded program."""
    exported = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic)
    exported = exported.run_decompositions() if decompose else exported
    sharded = sw.shard(exported, mesh=mesh, plan=plan, **options)
    report = sw.verify(sharded, exported, args, kwargs, tolerance=tolerance)
    assert report.ok, str(report)
    for rank in (0, sharded.mesh.num_ranks - 1):
        sharded.exported(rank).validate()
    return sharded


def kinds(sharded):
    return dict(Counter(c.kind for c in sharded.collectives))


GLU_PLAN = {"blocks.*.[gate,up]_proj": "colwise", "blocks.*.down_proj": "rowwise"}


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_megatron_block_costs_two_all_reduces(num_ranks, decompose):
    sharded = check(redraw(Decoder(layers=3)), (IDS,), num_ranks, MEGATRON, decompose=decompose)
    assert kinds(sharded) == {"all_reduce": 6}
    assert sharded.fallbacks == []


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_a_parallel_block_costs_one(layers):
    assert kinds(check(redraw(Decoder(layers=layers, parallel=True)), (IDS,), 2, MEGATRON)) == {"all_reduce": layers}


def test_four_glu_blocks_cost_four():
    assert kinds(check(redraw(Gated()), (torch.randn(3, 16),), 2, GLU_PLAN)) == {"all_reduce": 4}


def test_vocabulary_cut_embedding_and_gathered_logits():
    plan = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}
    for num_ranks in (2, 3, 4):
        sharded = check(redraw(Decoder()), (IDS,), num_ranks, plan)
        assert kinds(sharded) == {"all_reduce": 5, "all_gather": 1}


def test_logits_left_cut_on_request():
    model = redraw(Decoder())
    plan = {**MEGATRON, "lm_head": "colwise"}
    sharded = check(model, (IDS,), 2, plan, outputs=sw.Shard(-1))
    assert kinds(sharded) == {"all_reduce": 4}
    pieces = sharded.simulate(IDS)
    torch.testing.assert_close(torch.cat(pieces, -1), model(IDS))


def test_tied_head_is_one_tensor():
    sharded = check(redraw(Decoder(tied=True)), (IDS,), 2, {**MEGATRON, "lm_head": "colwise_rep"})
    cut = [w for w in sharded.weights if w.name in ("embed.weight", "lm_head.weight")]
    assert {w.layouts["tp"] for w in cut} == {cut[0].layouts["tp"]}
    assert kinds(sharded) == {"all_reduce": 5, "all_gather": 1}


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_the_automatic_plan_is_megatron(num_ranks):
    model = redraw(Decoder(width=128, heads=8, kv_heads=8, hidden=512, vocab=512))
    sharded = check(model, (IDS,), num_ranks, "auto", slack=0.02)
    layouts = {w.name.split(".", 2)[-1]: w.layouts["tp"] for w in sharded.weights if w.name.startswith("layers.0")}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        assert layouts[f"{name}.weight"].dim == 0
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert layouts[f"{name}.weight"].dim == 1
    counts = kinds(sharded)
    assert counts["all_reduce"] >= 4
    assert sum(counts.values()) <= 6


def test_automatic_memory_is_near_the_least():
    sharded = check(redraw(Decoder()), (IDS,), 4, "auto")
    whole = sum(w.num_bytes for w in sharded.weights)
    assert max(sum(w.rank_bytes[r] for w in sharded.weights) for r in range(4)) <= 1.15 * whole / 4 + 4096


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_nine_heads_stay_whole_and_go_with_their_group(num_ranks):
    sharded = check(redraw(Decoder(width=72, heads=9, kv_heads=3)), (IDS,), num_ranks, MEGATRON)
    assert kinds(sharded) == {"all_reduce": 4}
    q = next(w for w in sharded.weights if w.name == "layers.0.self_attn.q_proj.weight")
    k = next(w for w in sharded.weights if w.name == "layers.0.self_attn.k_proj.weight")
    assert [b // (24 * 72 * 4) for b in q.rank_bytes] == [b // (8 * 72 * 4) for b in k.rank_bytes]


@pytest.mark.parametrize("style", ["colwise", "packed_colwise", ColwiseParallel])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_packed_projections_are_cut_part_by_part(style, num_ranks):
    sharded = check(redraw(PackedAttention()), (torch.randn(2, 5, 48),), num_ranks, {"qkv": style, "out": "rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}
    packed = next(w for w in sharded.weights if w.name == "qkv.weight").layouts["tp"]
    assert "parts=(48, 48, 48)" in repr(packed)


@pytest.mark.parametrize("plan", [{"k_proj": "colwise", "o_proj": "rowwise"}, "auto"])
def test_a_cache_is_cut_on_heads_and_keeps_its_layout(plan):
    inputs = (torch.randn(2, 3, 16), torch.tensor([1, 2, 3]))
    sharded = check(redraw(Cache()), inputs, 4, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    assert next(w for w in sharded.weights if w.name == "keys").layouts["tp"] == sw.Shard(1).__class__(1, _even(4, 4))
    simulation = sharded.simulation()
    model = redraw(Cache())
    for step in range(3):
        wanted = model(inputs[0], torch.tensor([step, step + 1, step + 2]))
        for got in simulation(inputs[0], torch.tensor([step, step + 1, step + 2])):
            torch.testing.assert_close(got, wanted)


def _even(size, ranks):
    from shardwright.layout.cut import Cut

    return Cut.even(size, ranks)


def test_dynamic_batch_and_sequence_without_a_false_constraint():
    model = redraw(Decoder())
    dynamic = ({0: Dim("batch", min=1, max=64), 1: Dim("sequence", min=2, max=128)},)
    sharded = check(model, (IDS,), 2, {**MEGATRON, "embed": "embedding_rowwise"}, dynamic=dynamic)
    exported = sharded.exported(0)
    assert exported.range_constraints == sharded.program.source.range_constraints
    assert "%" not in str(list(exported.range_constraints.values()))
    for shape in ((1, 3), (5, 7), (3, 2)):
        ids = torch.randint(0, 96, shape)
        for got in sharded.simulate(ids):
            torch.testing.assert_close(got, model(ids), rtol=1e-4, atol=1e-4)


def test_a_symbolic_dim_is_cut_where_its_divisibility_is_known():
    model = redraw(Gated(blocks=1))
    pair = {0: 2 * Dim("half", min=1, max=32)}
    x = torch.randn(4, 16)
    cut = {"inputs": {"x": sw.Shard(0)}, "outputs": sw.Shard(0)}
    sharded = check(model, (x,), 2, {}, dynamic=(pair,), **cut)
    assert kinds(sharded) == {}
    longer = torch.randn(10, 16)
    torch.testing.assert_close(torch.cat(sharded.simulate(longer)), model(longer))
    with pytest.raises(sw.PlanError, match="not known to be a multiple of 2"):
        check(model, (x,), 2, {}, dynamic=({0: Dim("any", min=2, max=32)},), **cut)


def test_three_dimensional_inputs_and_uneven_features():
    model = redraw(nn.Sequential(nn.Linear(10, 7), nn.GELU(), nn.Linear(7, 10)))
    sharded = check(model, (torch.randn(2, 3, 10),), 4, {"0": "colwise", "2": "rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}


def test_programs_of_different_depth_in_one_process():
    for layers in (3, 1, 2):
        assert kinds(check(redraw(Decoder(layers=layers)), (IDS,), 2, MEGATRON)) == {"all_reduce": 2 * layers}


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
    graphs = [str(check(model, inputs, 2, plan).exported(1).graph) for plan in (by_class, by_instance)]
    assert graphs[0] == graphs[1]


def test_layout_arguments_are_honoured():
    model, inputs = redraw(Gated(blocks=1)), (torch.randn(4, 6, 16),)
    gathered = ColwiseParallel(output_layouts=TorchReplicate())
    whole = {"blocks.0.[gate,up]_proj": gathered, "blocks.0.down_proj": "rowwise"}
    assert kinds(check(model, inputs, 2, whole)) == {"all_gather": 2, "all_reduce": 1}
    scattered = {**GLU_PLAN, "blocks.*.down_proj": RowwiseParallel(output_layouts=TorchShard(1))}
    assert kinds(check(model, inputs, 2, scattered)) == {"reduce_scatter": 1, "all_gather": 1}
    prepared = {
        **GLU_PLAN,
        "blocks.0": PrepareModuleOutput(output_layouts=TorchReplicate(), desired_output_layouts=TorchShard(0)),
    }
    assert kinds(check(model, inputs, 2, prepared)) == {"reduce_scatter": 1, "all_gather": 1}
    entering = {
        **GLU_PLAN,
        "blocks.0": PrepareModuleInput(input_layouts=TorchReplicate(), desired_input_layouts=TorchShard(1)),
    }
    assert kinds(check(model, inputs, 2, entering)) == {"all_gather": 1, "all_reduce": 1}


def test_sequence_parallel_norms():
    plan = {**MEGATRON, "layers.*.norm[12]": SequenceParallel, "norm": SequenceParallel}
    sharded = check(redraw(Decoder()), (IDS,), 2, plan)
    counts = kinds(sharded)
    assert "all_reduce" not in counts
    assert counts["reduce_scatter"] == 4
    same = {**MEGATRON, "layers.*.norm[12]": "sequence_parallel", "norm": "sequence_parallel"}
    assert kinds(check(redraw(Decoder()), (IDS,), 2, same)) == counts


def test_uneven_batch_norm_and_an_operator_without_a_rule():
    for model in (LinearNorm(), LinearPlaces()):
        sharded = check(model, (torch.randn(7, 3),), 4, {"fc": ColwiseParallel})
        assert kinds(sharded) == {"all_gather": 1}
    assert [f.op for f in sharded.fallbacks] == ["shardwright_tests.places_in_rows.default"]
    assert "no rule" in sharded.collectives[0].cause


class Shared(nn.Module):
    """One cut value that two readers need whole."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 12)

    def forward(self, x):
        y = self.fc(x)
        return y.softmax(-1) + y.cumsum(-1)


def test_one_gather_serves_all_readers():
    assert kinds(check(redraw(Shared()), (torch.randn(3, 8),), 2, {"fc": "colwise"})) == {"all_gather": 1}


def test_a_bias_joins_a_partial_sum_once_without_a_division():
    model = redraw(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)))
    sharded = check(model, (torch.randn(3, 8),), 3, {"0": "colwise", "2": "rowwise"})
    ranks = [sharded.exported(rank) for rank in range(3)]
    assert torch.equal(ranks[0].state_dict["2.bias"], model[2].bias)
    assert all(not rank.state_dict["2.bias"].any() for rank in ranks[1:])
    for rank in ranks:
        targets = [str(node.target) for node in rank.graph.nodes if node.op == "call_function"]
        assert targets == [
            "aten.linear.default",
            "aten.relu.default",
            "aten.linear.default",
            "_c10d_functional.all_reduce.default",
            "_c10d_functional.wait_tensor.default",
            "aten.detach.default",
        ]


@pytest.mark.parametrize("mesh", [{"dp": 2, "tp": 2}, {"tp": 2, "sp": 2}])
def test_two_axes(mesh):
    plans = dict.fromkeys(mesh, MEGATRON)
    sharded = check(redraw(Decoder()), (IDS,), mesh, plans)
    assert Counter((c.kind, c.axis) for c in sharded.collectives) == {("all_reduce", axis): 4 for axis in mesh}


def test_data_parallel_axis_by_inputs_and_outputs():
    sharded = check(
        redraw(Decoder()),
        (IDS,),
        {"dp": 2, "tp": 2},
        {"tp": MEGATRON},
        inputs={"dp": {"ids": sw.Shard(0)}},
        outputs={"dp": sw.Shard(0)},
    )
    assert Counter((c.kind, c.axis) for c in sharded.collectives) == {("all_reduce", "tp"): 4}


def test_float64_agrees_to_the_last_digits():
    model = redraw(PackedAttention()).double()
    check(model, (torch.randn(2, 5, 48).double(),), 4, {"qkv": "colwise", "out": "rowwise"}, tolerance=1e-14)


def test_partial_sums_are_never_rounded_before_they_are_added():
    # float64 hidden states, cast to float32 in the norm: the sum must come before the cast.
    model = redraw(Decoder(layers=4)).double()
    exported = torch.export.export(model, (IDS,))
    sharded = sw.shard(exported, mesh=4, plan=MEGATRON)
    held = {c.node for c in sharded.collectives}
    assert held == {n.name for n in exported.graph.nodes if n.name in held and "linear" in n.name}


def test_entries_that_disagree_on_a_tied_weight():
    exported = torch.export.export(redraw(Decoder(tied=True)), (IDS,))
    with pytest.raises(sw.PlanError, match=r"'embed.weight' and 'lm_head.weight' are one tied tensor"):
        sw.shard(exported, mesh=2, plan={"embed": "embedding_colwise", "lm_head": "colwise"})


def test_every_collective_says_where_and_why():
    sharded = check(redraw(Decoder(layers=1)), (IDS,), 2, MEGATRON)
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
    with pytest.raises(sw.PlanError, match="neither 'auto', 'hf' nor a file"):
        sw.shard(exported, mesh=2, plan="atuo")
    with pytest.raises(sw.InputError, match="must have shape"):
        sw.shard(exported, mesh=2).simulate(torch.randn(4, 16))


PROGRAM = """
import torch, shardwright as sw
from tests.support.models import *
ids = torch.zeros(2, 8, dtype=torch.long)
exported = torch.export.export(redraw(Decoder(width=72, heads=9, kv_heads=3)), (ids,))
for plan in (MEGATRON, "auto"):
    sharded = sw.shard(exported, mesh=4, plan=plan)
    print(sharded.exported(1).graph, [(w.name, w.layouts) for w in sharded.weights], sharded.collectives)
"""


def test_every_run_finds_the_same_program():
    texts = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONWARNINGS": "ignore"}
        run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
        texts.add(run.stdout)
    assert len(texts) == 1


def test_an_answer_that_is_not_proven_the_best_is_a_warning(monkeypatch):
    solved = highs.IntegerProgram.minimize
    monkeypatch.setattr(highs.IntegerProgram, "minimize", lambda self, *given: replace(solved(self, *given), gap=0.25))
    with pytest.warns(sw.SolverWarning, match=r"may cost up to 25% more than the best"):
        sharded = sw.shard(torch.export.export(redraw(Decoder()), (IDS,)), mesh=2)
    assert sharded.gap == 0.25


def test_a_number_read_off_a_tensor_is_that_of_the_whole():
    """How many elements, or how they lie in memory: a rank's piece would say something else."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            return self.down(self.up(x) / x.shape[0])

    x = torch.randn(6, 8)
    rows = {0: torch.export.Dim("rows", min=2)}
    exported = torch.export.export(redraw(Counts()), (x,), dynamic_shapes=(rows,))
    linear, div = (next(n for n in exported.graph.nodes if n.name == name) for name in ("linear", "div"))
    with exported.graph.inserting_after(linear):
        count = exported.graph.call_function(torch.ops.aten.sym_numel.default, (linear,))
    count.meta["val"] = linear.meta["val"].numel()
    div.args = (linear, count)
    exported.graph_module.recompile()
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise", "down": "rowwise"})
    assert sw.verify(sharded, exported, (x,)).ok


def test_what_was_gathered_lies_otherwise_in_memory():
    """A transposed view that is gathered comes back contiguous; undoing the transposition is then no view any more."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 16)

        def forward(self, x):
            return self.proj(x).view(2, 3, 4, 4).transpose(1, 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = Heads()

        def forward(self, x):
            return self.heads(x).transpose(1, 2).view(2, 3, 16)

    whole = PrepareModuleOutput(output_layouts=TorchShard(1), desired_output_layouts=TorchReplicate())
    sharded = check(redraw(Model()), (torch.randn(2, 3, 8),), 2, {"heads.proj": ColwiseParallel, "heads": whole})
    assert kinds(sharded) == {"all_gather": 1}
    exported = sharded.exported(0)
    strides = [n.meta["val"].stride() for n in exported.graph.nodes if n.name.startswith("transpose")]
    assert (48, 4, 12, 1) in strides


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
    check(redraw(MaskedLayers()), inputs, 2, {"layers.*.up": "colwise", "layers.*.down": "rowwise"})


def test_group_names_of_axes_that_are_not_there():
    sharded = check(redraw(Masked()), (torch.randn(4, 8), torch.randn(12)), 2, {"up": "colwise", "down": "rowwise"})
    with pytest.raises(sw.ShardwrightError, match="group_names: the mesh has no axis 'pt'\n  try: tp"):
        sharded.exported(0, group_names={"pt": "x"})


class Tokens(nn.Module):
    """An MLP for so many tokens that its weights are smaller than what it computes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("decompose", [False, True])
def test_weights_are_not_gathered_though_activations_are_larger(decompose):
    # Decomposed, a linear reads its weight transposed: no less a weight.
    sharded = check(redraw(Tokens()), (torch.randn(400_000, 8),), 2, "auto", decompose=decompose)
    assert kinds(sharded) == {"all_reduce": 1}


class PadsByANumberItReads(nn.Module):
    """Convolutions whose padding is read off a buffer, as in the decoders of audio codecs: sizes are symbols."""

    def __init__(self):
        super().__init__()
        self.register_buffer("padding", torch.tensor(2))
        self.first, self.second = nn.Conv1d(4, 24, 3), nn.Conv1d(24, 4, 3)

    def forward(self, x):
        for conv in (self.first, self.second):
            count = self.padding.item()
            torch._check(count >= 0)
            torch._check(count < 8)
            x = conv(torch.nn.functional.elu(torch.nn.functional.pad(x, (count, count))))
        return x


def test_pads_by_a_number_that_the_program_reads():
    sharded = check(redraw(PadsByANumberItReads()), (torch.randn(2, 4, 16),), 2, "auto")
    assert all(w.layouts["tp"] != sw.Replicate() for w in sharded.weights if w.name.endswith("weight"))
