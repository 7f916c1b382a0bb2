"""Refused at once: more ranks than anything in the program has indices, and cost models that say nothing."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.assign.cost import CostModel, constant_names


@pytest.fixture(scope="module")
def program():
    model = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 8))
    batch = torch.export.Dim("batch", max=10**6)
    return torch.export.export(model, (torch.randn(4, 8),), dynamic_shapes=({0: batch},))


@pytest.mark.parametrize("plan", ["auto", {"0": "colwise"}])
@pytest.mark.parametrize("mesh", [97, 10**9, 10**30, {"a": 2, "b": 10**9}])
def test_an_axis_of_more_ranks_than_any_dim_has_indices_is_refused(program, mesh, plan, monkeypatch):
    monkeypatch.setattr(
        "shardwright.compiler.axes.assign_layouts", lambda *_, **__: pytest.fail("solved for so many ranks")
    )
    asked = {"b": plan} if isinstance(mesh, dict) else plan
    with pytest.raises(sw.ShardwrightError, match="ranks, but the longest dim in the program has 96 indices"):
        sw.shard(program, mesh=mesh, plan=asked)


def test_all_axes_together_are_compared_with_the_elements(program):
    with pytest.raises(sw.ShardwrightError, match="mesh has 4096 ranks, but the largest tensor in the program has 768"):
        sw.shard(program, mesh={"a": 64, "b": 64}, plan={"a": "auto"})


def test_few_ranks_are_always_taken():
    program = torch.export.export(nn.Linear(3, 2), (torch.randn(1, 3),))
    assert sw.verify(sw.shard(program, mesh=8), program, (torch.randn(1, 3),)).ok


@pytest.mark.parametrize("constant", constant_names())
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 10**400, "1", None, True])
def test_a_cost_model_is_of_numbers_above_zero(constant, value):
    with pytest.raises(sw.ShardwrightError, match=f"finite numbers above 0, got {constant}="):
        CostModel(**{constant: value})


@pytest.mark.parametrize("constant", [name for name in constant_names() if name != "call_us"])
def test_only_a_call_may_cost_nothing(constant):
    with pytest.raises(sw.ShardwrightError, match=f"finite numbers above 0, got {constant}=0"):
        CostModel(**{constant: 0})
    assert CostModel(call_us=0).call_us == 0


def test_all_constants_that_are_wrong_are_named():
    with pytest.raises(sw.ShardwrightError, match=r"got latency_us=0, flops_per_us=nan"):
        CostModel(latency_us=0, flops_per_us=float("nan"))


def test_a_number_has_no_dims():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean()

    x = torch.randn(4, 8)
    program = torch.export.export(Mean(), (x,))
    assert sw.verify(sw.shard(program, mesh=2), program, (x,)).ok
