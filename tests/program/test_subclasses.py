"""Tensor subclasses are taken apart: plain tensors, named after the weight, and the exported program stays as it is."""

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torchao.quantization import quantize_

import shardwright as sw
from shardwright.program.read import read
from shardwright.program.subclasses import taken_apart
from tests.support.quantized import WEIGHT_ONLY, quantized, rows


def test_a_program_without_subclasses_is_taken_as_it_is():
    exported = torch.export.export(nn.Linear(4, 4), (torch.ones(2, 4),))
    assert taken_apart(exported) is exported


def test_names_follow_the_module_and_the_original_stays():
    exported, inputs = quantized(WEIGHT_ONLY["int8 by group"])
    kinds = {name: type(tensor) for name, tensor in exported.state_dict.items()}
    program = read(exported)
    assert list(program.weights) == [
        f"{layer}.weight.{part}" for layer in ("up", "down") for part in ("qdata", "scale", "zero_point")
    ]
    assert [node.name for node in program.placeholders()][:2] == ["p_up_weight_qdata", "p_up_weight_scale"]
    weight = exported.state_dict["up.weight"]
    assert torch.equal(program.weights["up.weight.qdata"].tensor, weight.qdata)
    assert torch.equal(program.weights["up.weight.scale"].tensor, weight.scale)
    assert {name: type(tensor) for name, tensor in exported.state_dict.items()} == kinds
    assert exported.module()(*inputs).shape == inputs[0].shape


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_tied_weights_stay_one():
    model = Tied()
    quantize_(model, WEIGHT_ONLY["int8 by row"]())
    model.second.weight = model.first.weight
    exported = torch.export.export(model, (rows(),))
    program = read(exported)
    assert program.weights["first.weight.qdata"].tensor is program.weights["second.weight.qdata"].tensor
    sharded = sw.shard(exported, mesh=2, plan={"first": "colwise"})
    assert sw.verify(sharded, exported, (rows(),)).ok


class Wrapped(torch.Tensor):
    """A subclass made of one tensor, which torchao does not know."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @classmethod
    def __tensor_unflatten__(cls, parts, meta, size, stride):
        return cls(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        found = func(*(one.inner if isinstance(one, cls) else one for one in args), **(kwargs or {}))
        return cls(found) if func is torch.ops.aten.detach.default else found


def test_a_subclass_made_of_anything_else_keeps_torchs_names():
    model = Tied()
    model.first.weight = nn.Parameter(Wrapped(torch.randn(64, 64)), requires_grad=False)
    exported = torch.export.export(model, (rows(),))
    sharded = sw.shard(exported, mesh=2, plan={"first": "colwise", "second": "rowwise"})
    assert "first.parametrizations.weight.original0" in {w.name for w in sharded.weights}
    assert [c.kind for c in sharded.collectives] == ["all_reduce"]
    assert sw.verify(sharded, exported, (rows(),)).ok


@pytest.mark.parametrize("key", ["up.weight", "up"])
def test_a_plan_names_the_weight_or_the_module(key):
    exported, _ = quantized(WEIGHT_ONLY["float8"])
    sharded = sw.shard(exported, mesh=2, plan={key: "colwise"})
    assert next(w for w in sharded.weights if w.name == "up.weight.qdata").layouts["tp"].dim == 0


def count_decompositions(monkeypatch):
    """The programs that torch traces anew from now on."""
    traced, decompose = [], ExportedProgram.run_decompositions

    def run_decompositions(self, *args, **kwargs):
        traced.append(self)
        return decompose(self, *args, **kwargs)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", run_decompositions)
    return traced


def test_a_program_is_taken_apart_once_however_often_it_is_read(monkeypatch):
    exported, inputs = quantized(WEIGHT_ONLY["int8 by row"])
    traced = count_decompositions(monkeypatch)
    for num_ranks in (2, 4):
        assert sw.verify(sw.shard(exported, mesh=num_ranks), exported, inputs).ok
    assert traced == [exported]


def test_it_is_taken_apart_anew_where_what_a_weight_is_made_of_is_another(monkeypatch):
    exported, inputs = quantized(WEIGHT_ONLY["int8 by row"])
    first, traced = read(exported), count_decompositions(monkeypatch)
    weight = exported.state_dict["up.weight"]
    weight.qdata = torch.zeros_like(weight.qdata)
    second = read(exported)
    assert traced == [exported]
    assert first.weights["up.weight.qdata"].tensor.any()
    assert not second.weights["up.weight.qdata"].tensor.any()
    assert sw.verify(sw.shard(exported, mesh=2), exported, inputs).ok
