"""Plans of several axes: each is resolved on the sizes that its axis sees."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard as TorchShard

import shardwright as sw

X = torch.randn(4, 8)
MESH = {"a": 2, "b": 2}


class Up(nn.Module):
    def __init__(self, rows=16):
        super().__init__()
        self.up = nn.Linear(8, rows)

    def forward(self, x):
        return self.up(x)


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Up(), (X,))


@pytest.mark.parametrize(
    "plan",
    [
        {"a": {"up.weight": sw.Shard(0)}, "b": {"up.weight": sw.Shard(0)}},
        {"a": {"up.weight": sw.Shard(-2)}, "b": {"up.weight": TorchShard(0)}},
        {"a": {"up.weight": sw.Shard(0)}, "b": {"up.weight": sw.Shard(0, sw.Blocks(parts=(6, 2)))}},
        {"a": {"up.weight": sw.Shard(0, sw.Blocks(parts=(12, 4)))}, "b": {"up.weight": sw.Shard(0, sw.Blocks((6, 2)))}},
        {"a": {"up.weight": sw.Shard(0), "up.bias": sw.Shard(0)}, "b": {"up": "colwise"}},
        {"a": {"up": "colwise"}, "b": {"up.weight": sw.Shard(0, sw.Blocks(unit=2))}},
        {"a": {"up.weight": sw.Shard(0)}, "b": {"up.weight": sw.Shard(1)}},
        {"a": "auto", "b": {"up.weight": sw.Shard(0)}},
        {"a": {}, "b": {"up.weight": sw.Shard(0)}},
    ],
    ids=str,
)
def test_a_dim_cut_by_an_earlier_axis_is_cut_on_what_is_left_of_it(program, plan):
    sharded = sw.shard(program, mesh=MESH, plan=plan)
    report = sw.verify(sharded, program, (X,))
    assert report.ok, report
    (weight,) = (one for one in sharded.weights if one.name == "up.weight")
    assert {len(set(weight.rank_bytes))} == {1}
    for axis, num_ranks in MESH.items():
        if isinstance(plan[axis], dict) and "up.weight" in plan[axis]:
            layout = weight.layouts[axis]
            assert isinstance(layout, sw.Shard)
            assert layout.cut.num_ranks == num_ranks


def test_inputs_and_outputs_are_cut_on_every_axis(program):
    shard = sw.Shard(0)
    sharded = sw.shard(
        program, mesh=MESH, plan={"a": {}}, inputs={"a": shard, "b": shard}, outputs={"a": shard, "b": shard}
    )
    assert sw.verify(sharded, program, (X,)).ok
    assert [tuple(out.shape) for out in sharded.simulate(X)] == [(1, 16)] * 4


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (sw.Shard(0, sw.Blocks(parts=(12, 4))), r"parts \(12, 4\) sum to 16, but the dim has size 8"),
        (sw.Shard(0, sw.Blocks(unit=16)), "size 8 cannot be cut at multiples of 16"),
        (sw.Shard(2), "cuts dim 2 of a tensor with 2 dims"),
    ],
)
def test_what_does_not_fit_what_is_left_is_an_error_of_the_plan(program, second, words):
    plan = {axis: {"up.weight": cut, "up.bias": cut} for axis, cut in (("a", sw.Shard(0)), ("b", second))}
    with pytest.raises(sw.PlanError, match=words) as raised:
        sw.shard(program, mesh=MESH, plan=plan)
    assert "the plan does not fit what the axes ['a'] left of the program" in str(raised.value)
    assert "2." in str(raised.value), "all findings at once"


@pytest.mark.parametrize(
    "last", [sw.Shard(2), sw.Shard(1, sw.Blocks(unit=5)), sw.Shard(1, sw.Blocks((12, 4)))], ids=str
)
def test_an_output_that_does_not_fit_what_is_left_is_named(program, last):
    with pytest.raises(sw.PlanError, match=r"output '\w+' of shape \(\d, 8\): .*(dim|parts)"):
        sw.shard(program, mesh=MESH, plan={"a": "auto", "b": "auto"}, outputs={"a": sw.Shard(1), "b": last})


SIX = [sw.Shard(0, sw.Blocks(unit=2)), sw.Shard(0, sw.Blocks((3, 3)))]


@pytest.mark.parametrize(
    ("rows", "second"), [*product((2, 3, 6), ("colwise", sw.Shard(0))), *product((6,), SIX)], ids=str
)
def test_a_free_weight_is_not_cut_so_that_a_later_axis_cannot_cut_it_as_planned(rows, second):
    program = torch.export.export(Up(rows=rows), (X,))
    key = "up" if isinstance(second, str) else "up.weight"
    for first in ("auto", {}):
        sharded = sw.shard(program, mesh=MESH, plan={"a": first, "b": {key: second}})
        assert sw.verify(sharded, program, (X,)).ok
        (weight,) = (one for one in sharded.weights if one.name == "up.weight")
        assert isinstance(weight.layouts["b"], sw.Shard)
        assert weight.layouts["b"].dim == 0


def test_a_dim_that_is_used_up_is_an_error_of_the_plan():
    program = torch.export.export(Up(rows=2), (X,))
    with pytest.raises(sw.PlanError, match=r"of shape \(1, 8\) cannot be cut in 2: it has only 1 indices"):
        sw.shard(program, mesh=MESH, plan={"a": {"up.weight": sw.Shard(0)}, "b": {"up.weight": sw.Shard(0)}})


def test_names_of_a_later_axis_are_checked_before_anything_is_solved(program, monkeypatch):
    monkeypatch.setattr("shardwright.compiler.axes.assign_layouts", lambda *_, **__: pytest.fail("solved too early"))
    with pytest.raises(sw.PlanError, match=r"'upp' matches no module"):
        sw.shard(program, mesh=MESH, plan={"a": "auto", "b": {"upp": "colwise"}})
    with pytest.raises(sw.PlanError, match="has no input 'y'"):
        sw.shard(program, mesh=MESH, plan={"a": "auto"}, inputs={"b": {"y": sw.Shard(0)}})


class Grouped(nn.Module):
    """Four query heads of two, and one key-value head for two of them."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 12)

    def forward(self, x):
        q = self.q(x).view(2, 3, 4, 2).transpose(1, 2)
        k, v = (f(x).view(2, 3, 2, 2).transpose(1, 2).repeat_interleave(2, 1) for f in (self.k, self.v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 3, 8))


@pytest.mark.parametrize("layout", [sw.Shard(0), sw.Shard(0, sw.Blocks(parts=(8, 4))), sw.Shard(0, sw.Blocks(unit=2))])
def test_a_layout_pinned_as_it_stands_is_kept_where_scarce_heads_would_split_the_axis(layout):
    x = torch.randn(2, 3, 8)
    program = torch.export.export(Grouped(), (x,))
    plan = {"q": "colwise", "k": "colwise", "v": "colwise", "o.weight": layout}
    sharded = sw.shard(program, mesh=4, plan=plan)
    assert sw.verify(sharded, program, (x,)).ok
    pieces = [sharded.exported(rank).state_dict["o.weight"].shape[0] for rank in range(4)]
    assert pieces == [3, 3, 3, 3] if layout.cut != sw.Blocks(unit=2) else [4, 4, 4, 0]
    whole = torch.cat([sharded.exported(rank).state_dict["o.weight"] for rank in range(4)])
    if layout == sw.Shard(0):
        assert torch.equal(whole, program.state_dict["o.weight"])
