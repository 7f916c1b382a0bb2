"""Plans of diffusers: its packed styles are known by name, and its classes carry plans, without diffusers installed."""

import sys
import types

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.package.manifest import read_manifest


class PackedColwiseParallel:
    """Of the name and attributes of diffusers' class."""

    def __init__(self, blocks=None):
        self.blocks = blocks


class PackedRowwiseParallel:
    def __init__(self, blocks=None):
        self.blocks = blocks


class Block(nn.Module):
    """Attention and a gated MLP side by side, one projection into both and one out of both."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.sizes = heads, (width, width, width, 3 * width, 3 * width)
        self.to_qkv_mlp_proj = nn.Linear(width, sum(self.sizes))
        self.to_out = nn.Linear(4 * width, width)

    def forward(self, x):
        *qkv, gate, up = self.to_qkv_mlp_proj(x).split(self.sizes, dim=-1)
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in qkv)
        found = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out(torch.cat([found, nn.functional.silu(gate) * up], dim=-1))


class Transformer(nn.Module):
    """A model of one kind of block, with a plan as diffusers writes it."""

    def __init__(self, width=24, heads=2):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def plan_of(columns, rows):
    return {"blocks.*.to_qkv_mlp_proj": columns, "blocks.*.to_out": rows}


SHIPPED = plan_of(PackedColwiseParallel(), PackedRowwiseParallel())
PLANS = {
    "no blocks": SHIPPED,
    "blocks": plan_of(PackedColwiseParallel([1, 1, 1, 3, 3]), PackedRowwiseParallel([1, 3])),
    "the classes": plan_of(PackedColwiseParallel, PackedRowwiseParallel),
}


def exported(heads=2, make=Transformer):
    torch.manual_seed(0)
    model, x = make(heads=heads).eval(), torch.randn(2, 5, 24)
    return torch.export.export(model, (x,)), x


def is_lean(sharded, program, x):
    """One all-reduce a block, and numbers that are right."""
    assert [c.kind for c in sharded.collectives] == ["all_reduce"] * 2
    assert sw.verify(sharded, program, (x,)).ok
    return True


@pytest.mark.parametrize(("heads", "ranks"), [(2, 2), (3, 2), (4, 3)])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_packed_styles_are_read_by_name(plan, heads, ranks):
    program, x = exported(heads)
    assert is_lean(sw.shard(program, mesh=ranks, plan=plan), program, x)


def test_blocks_that_do_not_fit_are_named():
    program, _ = exported()
    with pytest.raises(sw.PlanError, match=r"\(3 problems\)") as raised:
        sw.shard(program, mesh=2, plan=plan_of(PackedColwiseParallel([2, 3]), PackedRowwiseParallel([1, -3])))
    says = str(raised.value)
    assert "'blocks.1.to_qkv_mlp_proj.weight' has 216 indices, which blocks in proportions [2, 3] do not divide" in says
    assert "blocks of PackedRowwiseParallel are positive numbers, not [1, -3]" in says


def test_a_package_keeps_the_plan(tmp_path):
    program, _ = exported()
    sw.shard(program, mesh=2, plan=SHIPPED).save(tmp_path / "two")
    assert read_manifest(tmp_path / "two").plan == {"tp": plan_of("packed_colwise", "packed_rowwise")}
    sw.reshard(tmp_path / "two", tmp_path / "three", mesh=3)


@pytest.fixture
def shipped(monkeypatch):
    """The model as a class of diffusers that carries its plan."""
    name = "diffusers.models.transformers.transformer_tiny"
    kind = type("TinyTransformer", (Transformer,), {"_tp_plan": SHIPPED, "__module__": name})
    module = types.ModuleType(name)
    module.TinyTransformer = kind
    monkeypatch.setitem(sys.modules, name, module)
    return kind


class Pipeline(nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, x):
        return self.transformer(x)


def test_classes_of_diffusers_carry_plans(shipped):
    program, x = exported(make=shipped)
    inner, _ = exported(make=lambda heads: Pipeline(shipped(heads=heads)))
    for plan in ("hf", "diffusers", sw.hf_plan(shipped), sw.hf_plan(shipped()), shipped._tp_plan):
        assert is_lean(sw.shard(program, mesh=2, plan=plan), program, x)
        assert is_lean(sw.shard(inner, mesh=2, plan=plan), inner, x)


def test_a_class_without_a_plan_is_none(shipped):
    shipped._tp_plan = None
    with pytest.raises(sw.PlanError, match="a model of transformers or diffusers that carries one"):
        sw.shard(exported(make=shipped)[0], mesh=2, plan="hf")
    with pytest.raises(sw.PlanError, match=r"a model of diffusers that carries one \(TinyTransformer does not\)"):
        sw.shard(exported(make=shipped)[0], mesh=2, plan="diffusers")
    with pytest.raises(sw.PlanError, match=r"a model of diffusers that carries one\n"):
        sw.shard(exported()[0], mesh=2, plan="diffusers")
    with pytest.raises(sw.PlanError, match="carries no tensor-parallel plan"):
        sw.hf_plan(shipped)
