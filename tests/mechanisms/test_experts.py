"""Mixtures of experts, cut by expert: each block costs one all-reduce, and rows stay with their experts in between."""

import functools
from collections import Counter

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import redraw

pytest.importorskip("transformers", reason="needs the extra 'hf'")

import transformers.integrations.moe

from tests.support.architectures import IDS, build

assert transformers.integrations.moe
grouped_mm = torch.ops.transformers.grouped_mm_fallback
BY_EXPERT = {"**.experts.gate_up_proj": sw.Shard(0), "**.experts.down_proj": sw.Shard(0)}


@functools.cache
def exported_of(kind):
    return torch.export.export(build(kind), (IDS,))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_model_cut_by_expert(kind, num_ranks):
    exported = exported_of(kind)
    sharded = sw.shard(exported, mesh=num_ranks, plan=BY_EXPERT)
    assert sw.verify(sharded, exported, (IDS,), tolerance=1e-5).ok
    # One a layer. Uneven experts (4 on 3 ranks) are whole experts too.
    assert Counter(c.kind for c in sharded.collectives) == {"all_reduce": 2}
    experts = [w for w in sharded.weights if "experts.down_proj" in w.name]
    assert {max(w.rank_bytes) * 4 // w.num_bytes for w in experts} == {-(-4 // num_ranks)}


def test_the_words_of_plans_for_expert_parallelism():
    exported = exported_of("mixtral")
    words = {"**.experts.gate_up_proj": "grouped_gemm", "**.experts.down_proj": "grouped_gemm"}
    sharded = sw.shard(exported, mesh=2, plan=words)
    assert Counter(c.kind for c in sharded.collectives) == {"all_reduce": 2}


class Two(nn.Module):
    """Two grouped matmuls, the second with groups of its own or those of the first."""

    def __init__(self, same, between=torch.relu):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 6, 8)), nn.Parameter(torch.randn(4, 8, 6))
        self.same, self.between = same, between

    def forward(self, x, ends, others):
        rows = self.between(grouped_mm(x, self.first, ends))
        return grouped_mm(rows, self.second, ends if self.same else others)


INPUTS = (torch.randn(9, 6), torch.tensor([2, 2, 7, 9]), torch.tensor([1, 4, 8, 9]))


def reversed_rows(x):
    return x.flip(0)


def normed(x):
    return torch.softmax(x, -1)


@pytest.mark.parametrize(
    ("same", "between", "counts"),
    [
        (True, torch.relu, {"all_reduce": 1}),
        (True, normed, {"all_reduce": 1}),
        (False, torch.relu, {"all_reduce": 2}),
        (True, reversed_rows, {"all_reduce": 2}),
    ],
    ids=["same groups", "row by row", "other groups", "rows that move"],
)
def test_rows_stay_with_their_experts_only_where_the_groups_are_the_same(same, between, counts):
    exported = torch.export.export(redraw(Two(same, between)), INPUTS)
    for num_ranks in (2, 3):
        sharded = sw.shard(exported, mesh=num_ranks, plan={"first": sw.Shard(0), "second": sw.Shard(0)})
        report = sw.verify(sharded, exported, INPUTS)
        assert report.ok, str(report)
        assert Counter(c.kind for c in sharded.collectives) == counts


class Aligned(nn.Module):
    """Two grouped matmuls of PyTorch's own, which takes rows only where they start at multiples of 16 bytes."""

    def __init__(self, features):
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, 16, features, dtype=torch.bfloat16))
        self.second = nn.Parameter(torch.randn(4, features, 16, dtype=torch.bfloat16))

    def forward(self, x, ends):
        rows = torch.ops.aten._grouped_mm.default(x, self.first, ends).relu()
        return torch.ops.aten._grouped_mm.default(rows, self.second, ends)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_features_are_cut_where_the_operator_takes_their_rows(num_ranks):
    inputs = torch.randn(9, 16, dtype=torch.bfloat16), torch.tensor([2, 2, 7, 9], dtype=torch.int32)
    exported = torch.export.export(redraw(Aligned(40)), inputs)
    # 40 features are 5 units of 8: equal chunks would start in the midst of one.
    for plan in ("auto", {"first": sw.Shard(2, sw.Blocks(unit=8)), "second": sw.Shard(1, sw.Blocks(unit=8))}):
        sharded = sw.shard(exported, mesh=num_ranks, plan=plan)
        assert sw.verify(sharded, exported, inputs, tolerance=2e-2).ok
    assert Counter(c.kind for c in sharded.collectives) == {"all_reduce": 1}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 6, 8)), nn.Parameter(torch.randn(4, 8, 6))

    def forward(self, x, ends, others):
        return grouped_mm(grouped_mm(x, self.first, ends).relu(), self.second, others)


class Stack(nn.Module):
    """Two equal layers, folded into one, of which only the first groups its rows alike in both matmuls."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, x, ends, others):
        return self.layers[1](self.layers[0](x, ends, ends), ends, others)


def test_folded_layers_with_groups_of_their_own():
    exported = torch.export.export(redraw(Stack()), INPUTS)
    sharded = sw.shard(exported, mesh=2, plan={"layers.*.first": sw.Shard(0), "layers.*.second": sw.Shard(0)})
    assert sharded.assignment.num_sites < len(sharded.assignment.steps.items), "the layers are not folded"
    assert sw.verify(sharded, exported, INPUTS).ok
    assert Counter(c.kind for c in sharded.collectives) == {"all_reduce": 4}
