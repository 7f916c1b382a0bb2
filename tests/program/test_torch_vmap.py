"""Models that map over a dim: the dim is written out, and cut like any other."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program import flatten
from shardwright.program.torch_vmap import without_leftovers


class Mlp(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run, self.up, self.down = run, nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, *args):
        return self.run(self, *args)


def mlp(m, x):
    return m.down(torch.relu(m.up(x)))


X, ROW = torch.randn(4, 6, 16), torch.randn(4, 16)
COUNT = torch.arange(6), torch.arange(16)
MODELS = {
    "rows": (lambda m, x: torch.vmap(lambda row: mlp(m, row))(x), (X,)),
    "another dim": (lambda m, x: torch.vmap(lambda row: mlp(m, row), in_dims=1)(x), (X,)),
    "in one another": (lambda m, x: torch.vmap(torch.vmap(lambda one: mlp(m, one)))(x), (X,)),
    "one after the other": (lambda m, x: torch.vmap(torch.sin)(torch.vmap(lambda row: mlp(m, row))(x)), (X,)),
    "two operands": (lambda m, x, y: torch.vmap(lambda a, b: mlp(m, a * b))(x, y), (X, ROW)),
    "a constant": (lambda m, x: torch.vmap(lambda row: mlp(m, row * torch.tensor(2.0)))(x), (X,)),
    "a mask": (
        lambda m, x: (
            mlp(m, x) * torch.vmap(torch.vmap(lambda i, j: i >= j, in_dims=(None, 0)), in_dims=(0, None))(*COUNT)
        ),
        (X,),
    ),
    # These leave a constant behind, made of the inner map's tensors.
    "a matrix": (lambda m, x: torch.vmap(torch.vmap(lambda one: m.down.weight @ (m.up.weight @ one)))(x), (X,)),
    "a matrix of its own": (
        lambda m, x, y: torch.vmap(lambda a, b: torch.vmap(lambda one: (m.up.weight * b) @ one)(a))(x, y),
        (X, ROW),
    ),
}


def exported(name, **options):
    torch.manual_seed(0)
    run, args = MODELS[name]
    return torch.export.export(Mlp(run), args, **options), args


@pytest.mark.parametrize("name", MODELS)
def test_what_is_mapped_is_cut(name):
    program, args = exported(name)
    before = str(program.graph)
    sharded = sw.shard(program, mesh=2)
    report = sw.verify(sharded, program, args)
    assert report.ok, str(report)
    assert not sharded.fallbacks
    assert all(weight.rank_bytes[0] < weight.num_bytes for weight in sharded.weights if weight.name == "up.weight")
    assert str(program.graph) == before


def test_the_dim_that_is_mapped_over_may_have_any_size():
    program, _ = exported("rows", dynamic_shapes=(({0: torch.export.Dim.DYNAMIC},),))
    sharded = sw.shard(program, mesh=2)
    for count in (2, 4, 7):
        report = sw.verify(sharded, program, (torch.randn(count, 6, 16),))
        assert report.ok, str(report)


def test_only_constants_that_nobody_needs_are_left_out():
    program, _ = exported("a matrix")
    plain, _ = exported("a constant")
    assert len(program.constants) == 1
    assert not without_leftovers(program).constants
    assert without_leftovers(plain) is plain


def test_what_torch_cannot_write_out_is_said_and_nothing_stays_mapped(monkeypatch):
    monkeypatch.setattr(flatten, "without_leftovers", lambda program: program)
    program, _ = exported("a matrix")
    with pytest.raises(sw.ProgramError, match=r"`torch\.vmap`.*\n  try: write the dim"):
        sw.shard(program, mesh=2)
    assert torch.randn(2).shape == (2,)  # torch refuses random numbers in a map
