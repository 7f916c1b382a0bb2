"""A sum over the ranks is taken behind a product with a whole weight, where that costs nothing."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program.collectives import all_reduce
from tests.support.models import redraw

aten = torch.ops.aten

X = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Scaled(nn.Module):
    """A layer whose columns are cut, its result multiplied by something of its own."""

    def __init__(self, after, *, factor=(8,), dtype=torch.float64):
        super().__init__()
        self.down, self.after = nn.Linear(12, 8, bias=False), after
        self.factor = nn.Parameter(torch.ones(factor))
        redraw(self).double()
        self.factor.data = self.factor.data.to(dtype)

    def forward(self, x):
        return self.after(self.down(x), self.factor, x)


def sharded(after, mesh=2, **options):
    """A sharding of `Scaled` that gives what it gives."""
    exported = torch.export.export(Scaled(after, **options), (X,))
    found = sw.shard(exported, mesh=mesh, plan={"down": sw.Shard(1), "factor": "replicate"})
    assert sw.verify(found, exported, (X,)).max_error < 1e-12
    return found


def summed(found):
    """What each sum of the first rank's program is taken of, and what of it is sent."""
    program = found.compiled.finished((0,) * len(found.compiled.axes))
    return [node.args[0].target for node in program.graph.nodes if node.target is all_reduce]


def plain(y, factor, x):
    return y * factor + 1


LATE = {
    "a product": (plain, aten.mul.Tensor),
    "the factor first": (lambda y, factor, x: factor * y + 1, aten.mul.Tensor),
    "a quotient": (lambda y, factor, x: y / factor + 1, aten.div.Tensor),
    "a factor made of weights": (lambda y, factor, x: y * (factor.exp() + factor) + 1, aten.mul.Tensor),
    "views before it": (lambda y, factor, x: y.view(6, 2, 4).transpose(0, 1) * factor[:4] + 1, aten.mul.Tensor),
    "two products": (lambda y, factor, x: y * factor.exp() / factor + 1, aten.div.Tensor),
}


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", LATE)
def test_a_product_comes_first(name, num_ranks):
    after, last = LATE[name]
    assert summed(sharded(after, num_ranks)) == [last]


EARLY = {
    "a factor that is computed": lambda y, factor, x: y * x[..., :8] + 1,
    "another reader of the sum": lambda y, factor, x: y * factor + y.exp(),
    "the sum itself": lambda y, factor, x: y * y + 1,
    "a product that is larger": lambda y, factor, x: y[:1, :1] * factor + 1,
    "what is not linear": lambda y, factor, x: factor / y + 1,
}


@pytest.mark.parametrize("name", EARLY)
def test_where_it_would_cost_or_be_wrong_the_sum_comes_first(name):
    factor = (4, 5, 8) if "larger" in name else (8,)
    assert aten.mul.Tensor not in summed(found := sharded(EARLY[name], factor=factor))
    assert aten.div.Tensor not in summed(found)
    assert [one.kind for one in found.collectives] == ["all_reduce"]


def test_a_product_of_wider_numbers_is_not_what_is_sent():
    def wider(y, factor, x):
        return y.float() * factor + 1

    found = sharded(wider)
    assert [one.num_bytes for one in found.collectives] == [2 * 3 * 8 * 8]


def test_along_one_of_two_axes():
    exported, cut = torch.export.export(Scaled(plain), (X,)), {"dp": sw.Shard(0)}
    plan = {"tp": {"down": sw.Shard(1), "factor": "replicate"}}
    found = sw.shard(exported, mesh={"dp": 2, "tp": 3}, plan=plan, inputs=cut, outputs=cut)
    assert sw.verify(found, exported, (X,)).max_error < 1e-12
    assert summed(found) == [aten.mul.Tensor]


@pytest.mark.parametrize("mesh", [{"tp": 2, "more": 3}, {"tp": 5, "more": 2}])
def test_along_both_axes(mesh):
    """Twelve columns on five ranks are 3, 3, 3, 3 and 0, which two more cut in 2 and 1."""
    exported = torch.export.export(Scaled(plain), (X,))
    plan = {axis: {"down": sw.Shard(1), "factor": "replicate"} for axis in mesh}
    found = sw.shard(exported, mesh=mesh, plan=plan)
    assert sw.verify(found, exported, (X,)).max_error < 1e-12
    assert summed(found) == [aten.mul.Tensor, all_reduce]
