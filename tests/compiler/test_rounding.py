"""`verify` excuses what rounding does where larger values cancel, and nothing that is wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shardwright as sw
from shardwright.layout.pieces import take_shard
from shardwright.program import program
from shardwright.rules import REGISTRY
from shardwright.rules.registry import einsum

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
SHAPES = [(6, 8), (2, 3, 24)]


class Model(nn.Module):
    """A linear layer without bias, and a function of what it gives, of its input and of its weight."""

    def __init__(self, function, width, outputs=12):
        super().__init__()
        self.inner, self.function = nn.Linear(width, outputs, bias=False), function

    def forward(self, x):
        return self.function(self.inner(x), x, self.inner.weight)


def spread(y):
    """One number of each row, as often as the row has numbers."""
    return torch.atan2(y, y.abs() + 1)[..., :1].expand(y.shape)


def normed(y):
    return (y - y.mean(-1, keepdim=True)) * (y.var(-1, keepdim=True) + 1e-5).rsqrt()


NOISE = {
    "layer norm": lambda y, x, w: F.layer_norm(spread(y), y.shape[-1:]),
    "group norm": lambda y, x, w: F.group_norm(spread(y).reshape(-1, 3, 4), 1),
    "by hand": lambda y, x, w: normed(spread(y)),
    "one sum twice": lambda y, x, w: y.sum(-1) - x @ w.sum(0),
    "softmax": lambda y, x, w: y.softmax(-1).sum(-1) - 1,
}
"""What is 0 but for rounding."""

VALUES = {
    "a norm": lambda y, x, w: F.layer_norm(y, y.shape[-1:]),
    "small values": lambda y, x, w: y * 1e-9,
    "a comparison": lambda y, x, w: (y == y.amax(-1, keepdim=True)).to(y.dtype),
    "the least number": lambda y, x, w: torch.where(y > 0, y, torch.finfo(y.dtype).min).softmax(-1),
    "a difference": lambda y, x, w: y + 1 - y.detach().sign().abs(),
    "an index": lambda y, x, w: x.new_ones(12).cumsum(0)[y.argmax(-1)],
}
"""What depends on the layer's values, with norms, cancellation and leaps in between."""


def sharded_with(function, shape, dtype, *, outputs=12, cut=1):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    exported = torch.export.export(Model(function, shape[-1], outputs).to(dtype), (x,))
    return sw.shard(exported, mesh=2, plan={"inner.weight": sw.Shard(cut)}), exported, x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NOISE)
def test_noise_is_no_difference(name, dtype):
    for shape in SHAPES:
        sharded, exported, x = sharded_with(NOISE[name], shape, dtype)
        report = sw.verify(sharded, exported, (x,))
        assert report.ok, (shape, str(report))


def test_what_was_excused_is_said():
    sharded, exported, x = sharded_with(NOISE["one sum twice"], (6, 8), torch.float64)
    report = sw.verify(sharded, exported, (x,))
    assert report.ok
    assert {check.rank for check in report.rounded} == {0, 1}
    assert all(check.error > report.tolerance for check in report.rounded)
    assert str(report).count("is rounding: larger values cancel here") == 1
    assert not sw.verify(sharded, exported, (x,), tolerance=0).ok
    assert str(sw.verify(sharded, exported, (x,))) == str(report)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_a_piece_of_another_rank_is_found(name, dtype, monkeypatch):
    for shape in SHAPES:
        sharded, exported, x = sharded_with(VALUES[name], shape, dtype)
        assert sw.verify(sharded, exported, (x,)).ok, shape
        with monkeypatch.context() as patch:
            patch.setattr(program, "take_shard", lambda tensor, layout, rank: take_shard(tensor, layout, 1 - rank))
            report = sw.verify(sharded, exported, (x,))
        assert not report.ok, (shape, str(report))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_a_wrong_rule_is_found(name, dtype):
    """A mean that is held to be a sum."""
    # The rule of all its overloads is registered as "aten::mean".
    assert REGISTRY.entry_named("aten::mean.dim") is None
    REGISTRY.add("aten::mean.dim", einsum("... n c -> ... c"))
    try:
        for shape in SHAPES:
            sharded, exported, x = sharded_with(
                lambda y, x, w: VALUES[name](y.exp().unflatten(-1, (16, 12)).mean(-2).sin(), x, w),
                shape,
                dtype,
                outputs=192,
                cut=0,
            )
            report = sw.verify(sharded, exported, (x,))
            assert not report.ok, (shape, str(report))
            assert report.first_wrong.op == "aten.mean.dim"
    finally:
        REGISTRY.remove("aten::mean.dim")


def in_steps(y, size):
    return (y / size).round() * size


@pytest.mark.parametrize("size", [1e-3, 4e-4])
def test_a_value_between_two_steps_may_become_either(size):
    sharded, exported, x = sharded_with(lambda y, x, w: in_steps(y, size).sin(), (2048, 64), torch.float32, outputs=16)
    report = sw.verify(sharded, exported, (x,))
    assert report.ok, str(report)
    # Sums in another order turn some of 32768 values over, by a step each.
    assert all(check.error > report.tolerance for check in report.rounded)
    assert not sw.verify(sharded, exported, (x,), tolerance=0).ok


def test_steps_excuse_no_wrong_piece(monkeypatch):
    sharded, exported, x = sharded_with(lambda y, x, w: in_steps(y, 1e-3).sin(), (2048, 64), torch.float32, outputs=16)
    monkeypatch.setattr(program, "take_shard", lambda tensor, layout, rank: take_shard(tensor, layout, 1 - rank))
    assert not sw.verify(sharded, exported, (x,)).ok


def in_16_bits(y, x, w):
    return F.linear(x.bfloat16(), w.bfloat16()).float()


def test_values_of_fewer_digits_on_the_way_may_differ_as_those_do(monkeypatch):
    """Mixed precision: outputs in float32, of what was rounded to bfloat16; and a wrong piece is none of that."""
    sharded, exported, x = sharded_with(in_16_bits, (64, 24), torch.float32)
    report = sw.verify(sharded, exported, (x,))
    assert report.ok, str(report)
    assert {check.rank for check in report.rounded} == {0, 1}
    assert max(check.error for check in report.rounded) > 1e-3
    assert not sw.verify(sharded, exported, (x,), tolerance=1e-4).ok
    monkeypatch.setattr(program, "take_shard", lambda tensor, layout, rank: take_shard(tensor, layout, 1 - rank))
    report = sw.verify(sharded, exported, (x,))
    assert not report.ok
    assert "try: the same model in float32" in str(report)


def test_a_program_of_one_precision_is_asked_for_in_no_other(monkeypatch):
    sharded, exported, x = sharded_with(lambda y, x, w: y, (6, 8), torch.float32)
    monkeypatch.setattr(program, "take_shard", lambda tensor, layout, rank: take_shard(tensor, layout, 1 - rank))
    assert "try:" not in str(sw.verify(sharded, exported, (x,)))
