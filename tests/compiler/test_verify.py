"""`verify` finds what is wrong: shown with rules that are deliberately so."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.rules import REGISTRY
from shardwright.rules.registry import einsum
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def wrong_rule():
    """Registers a wrong entry, and puts the right one back."""
    changed = []

    def register(name, entry):
        changed.append((name, REGISTRY.entry_named(name)))
        REGISTRY.add(name, entry, replace=True)

    yield register
    for name, entry in changed:
        REGISTRY.remove(name) if entry is None else REGISTRY.add(name, entry, replace=True)


def verified(plan=MEGATRON, **options):
    exported = torch.export.export(redraw(Decoder()), (IDS,))
    sharded = sw.shard(exported, mesh=2, plan=plan)
    return sw.verify(sharded, exported, (IDS,), **options)


def test_a_right_program_is_equal():
    report = verified()
    assert report.ok
    assert report.first_wrong is None
    assert "equal on every rank" in str(report)
    assert len(report.outputs) == 2


def test_a_non_linear_operator_called_linear_is_named(wrong_rule):
    # The silu of a partial sum is not the partial sum of silus.
    wrong_rule("aten::silu", einsum("... -> ...", linear=((0,),)))
    plan = {
        **{key: style for key, style in MEGATRON.items() if "mlp" not in key},
        "layers.*.mlp.gate_proj": "rowwise",
        "layers.*.mlp.[up,down]_proj": "replicate",
    }
    report = verified(plan)
    assert not report.ok
    assert report.first_wrong.op == "aten.silu.default"
    assert report.first_wrong.module == "layers.0.mlp"
    assert "models.py:" in report.first_wrong.source
    assert "first wrong node: silu" in str(report)


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 16)

    def forward(self, x):
        return self.fc(x).exp().mean(-1, keepdim=True) + 1


def test_a_mean_claimed_to_be_a_sum_is_named(wrong_rule):
    wrong_rule("aten::mean.dim", einsum("b n -> b 1"))
    model, inputs = redraw(Mean()), (torch.randn(64, 8),)
    exported = torch.export.export(model, inputs)
    sharded = sw.shard(exported, mesh=2, plan={"fc": "colwise"})
    report = sw.verify(sharded, exported, inputs)
    assert not report.ok
    assert report.first_wrong.op == "aten.mean.dim"
    assert report.first_wrong.layouts == ("Partial()",)
    assert report.first_wrong.error == pytest.approx(1.0, abs=0.01)


class Deep(nn.Module):
    """Forty layers, of which one has a bias: nothing else is computed of that one's gradient."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=number == 17) for number in range(40))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def test_a_gradient_that_alone_is_wrong_is_found(wrong_rule):
    wrong_rule("aten::sum.dim_IntList", einsum("b n -> 1 n", reduce="max"))
    args = (torch.randn(4, 6).double(), torch.randn(4, 6).double())
    joint = sw.export_training(Deep().double(), args, loss=nn.functional.mse_loss)
    parts = {"dp": {"x": sw.Shard(0), "target": sw.Shard(0)}}
    report = sw.verify(sw.shard(joint, mesh={"dp": 2}, plan={}, inputs=parts), joint, args)
    assert {one.name for one in report.gradients if one.error > 1e-9} == {"gradient of layers.17.bias"}
    assert report.first_wrong.op == "aten.sum.dim_IntList"
    assert report.first_wrong.module == "layers.17"


def test_tolerance_is_the_callers():
    assert not verified(tolerance=0.0).ok


def test_inputs_are_checked_first():
    exported = torch.export.export(redraw(Decoder()), (IDS,))
    sharded = sw.shard(exported, mesh=2, plan=MEGATRON)
    with pytest.raises(sw.InputError, match="takes 1 inputs"):
        sw.verify(sharded, exported, (IDS, IDS))
    with pytest.raises(sw.InputError, match=r"dtype torch.int64, got torch.float32"):
        sw.verify(sharded, exported, (IDS.float(),))


def test_ranks_draw_the_numbers_the_original_drew():
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return self.down(self.up(x) + torch.randn(16)) + torch.randn_like(x)

    x = torch.randn(2, 8)
    exported = torch.export.export(Noise(), (x,))
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise", "down": "rowwise"})
    assert {f.op for f in sharded.fallbacks} == {"aten.randn.default", "aten.randn_like.default"}
    assert sw.verify(sharded, exported, (x,)).ok


def test_numbers_read_off_a_tensor_are_of_the_whole():
    class Counted(nn.Module):
        def forward(self, x):
            count = x.sum().item()
            torch._check(count >= 0)
            torch._check(count <= 64)
            return torch.zeros(3) + count

    x = torch.ones(16, 2, dtype=torch.int64)
    exported = torch.export.export(Counted(), (x,))
    sharded = sw.shard(exported, mesh=2, plan={}, inputs={"x": sw.Shard(0)})
    assert len(sharded.collectives) == 1
    assert sw.verify(sharded, exported, (x,)).ok


class RaggedExperts(nn.Module):
    """Rows grouped by expert, as many as the data says."""

    def __init__(self):
        super().__init__()
        self.route, self.experts = nn.Linear(16, 4), nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, x):
        chosen = self.route(x).topk(2, 1).indices
        counts = torch.zeros(16, 4).scatter(1, chosen, 1).long().sum(0).tolist()
        rows = x.repeat_interleave(2, 0).split(counts, 0)
        return torch.cat([a @ b for a, b in zip(rows, self.experts, strict=True)], 0)


@pytest.mark.parametrize("plan", [{"experts": sw.Shard(2)}, "auto"])
def test_sizes_that_depend_on_the_data(plan):
    x = torch.randn(16, 16)
    exported = torch.export.export(RaggedExperts().eval(), (x,))
    sharded = sw.shard(exported, mesh=2, plan=plan)
    assert sw.verify(sharded, exported, (x,)).ok


def test_a_view_of_a_piece_that_is_no_single_run():
    class View(nn.Module):
        def forward(self, x):
            return x.view(-1, 8)

    x = torch.randn(2, 8, 8, 8)
    exported = torch.export.export(View(), (x,))
    sharded = sw.shard(exported, mesh=8, plan={}, outputs=sw.Shard(0, sw.Blocks(parts=(64, 64))))
    assert sw.verify(sharded, exported, (x,)).ok


def test_a_pinned_weight_that_only_an_operator_without_a_rule_reads():
    class Histogram(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(8, 16, bias=False)

        def forward(self, x):
            return x + torch.histogram(self.w.weight.flatten(), 4).hist.sum()

    x = torch.randn(3)
    exported = torch.export.export(Histogram(), (x,))
    sharded = sw.shard(exported, mesh=2, plan={"w": "colwise"})
    assert [w.rank_bytes for w in sharded.weights] == [(256, 256)]
    assert sw.verify(sharded, exported, (x,)).ok


def test_sizes_that_only_strides_know():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 12)

        def forward(self, x):
            return self.head(x[:, -1:, :])

    x = torch.randn(2, 5, 8)
    dynamic = {"x": {1: torch.export.Dim("seq", min=2, max=64)}}
    exported = torch.export.export(Last(), (x,), dynamic_shapes=dynamic)
    sharded = sw.shard(exported, mesh=2, plan={"head": "colwise"})
    assert sw.verify(sharded, exported, (x,)).ok


@pytest.mark.parametrize("length", [6, 8])
def test_ranks_whose_programs_differ_in_constants_agree_on_a_second_axis(length):
    # Without a rule the keys' copies are whole on the first axis, and every rank then slices elsewhere.
    ids = IDS[:, :length]
    entry = REGISTRY.entry_named("aten::expand")
    REGISTRY.remove("aten::expand")
    try:
        exported = torch.export.export(redraw(Decoder()), (ids,))
        sharded = sw.shard(exported, mesh={"dp": 2, "tp": 2}, plan={"dp": MEGATRON, "tp": MEGATRON})
        report = sw.verify(sharded, exported, (ids,))
    finally:
        REGISTRY.add("aten::expand", entry)
    assert report.ok, str(report)
