"""A user's own operators: a line of notation, checked against the operator, used like any other rule."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.rules import REGISTRY

LIBRARY = torch.library.Library("shardwright_tests", "DEF")
LIBRARY.define("scale_rows(Tensor x, *, Tensor scale) -> (Tensor, Tensor)")
LIBRARY.define("mix(Tensor x, Tensor w) -> Tensor")


def scale_rows(x, *, scale):
    return x * scale[:, None], x.amax(-1)


def mix(x, w):
    return torch.einsum("bi,io->bo", x, w).relu()


for name, function in (("scale_rows", scale_rows), ("mix", mix)):
    LIBRARY.impl(name, function, "CPU")
    torch.library.register_fake(f"shardwright_tests::{name}", function, lib=LIBRARY)

OPS = torch.ops.shardwright_tests


@pytest.fixture
def forget():
    """Takes the names registered by a test out of the registry."""
    names = []
    yield names.append
    for name in names:
        REGISTRY.remove(name)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 12)
        self.register_buffer("scale", torch.rand(12))

    def forward(self, x):
        rows, largest = OPS.scale_rows(self.up(x).T.contiguous(), scale=self.scale)
        return rows + largest[:, None]


def test_an_operator_with_a_keyword_tensor_and_two_results(forget):
    sw.register_rule("shardwright_tests::scale_rows", "n d!, n -> n d!, n")
    forget("shardwright_tests::scale_rows")
    assert sw.check_rule(OPS.scale_rows, torch.randn(6, 4), scale=torch.rand(6)) == []
    assert sw.check_rule("shardwright_tests::scale_rows", torch.randn(5, 3), scale=torch.rand(5)) == []
    x = torch.randn(4, 8)
    exported = torch.export.export(Model(), (x,))
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise"})
    assert sharded.fallbacks == []
    assert (
        next(w for w in sharded.weights if w.name == "scale").layouts["tp"]
        == next(w for w in sharded.weights if w.name == "up.bias").layouts["tp"]
    )
    assert sw.verify(sharded, exported, (x,)).ok


def test_without_a_rule_it_runs_whole_and_is_reported():
    x = torch.randn(4, 8)
    exported = torch.export.export(Model(), (x,))
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise"})
    assert [f.op for f in sharded.fallbacks] == ["shardwright_tests.scale_rows.default"]
    assert sw.verify(sharded, exported, (x,)).ok
    with pytest.raises(sw.RuleError, match="has no rule"):
        sw.check_rule(OPS.scale_rows, x, scale=torch.rand(4))


def test_a_wrong_rule_is_found_out(forget):
    # The relu of a partial sum is not the partial sum of relus, so i may not be cut.
    sw.register_rule("shardwright_tests::mix", "b i, i o -> b o")
    forget("shardwright_tests::mix")
    problems = sw.check_rule(OPS.mix.default, torch.randn(4, 8), torch.randn(8, 6))
    assert problems
    assert all("i cut" in problem for problem in problems)
    sw.register_rule("shardwright_tests::mix", "b i!, i o -> b o")
    assert sw.check_rule(OPS.mix.default, torch.randn(4, 8), torch.randn(8, 6)) == []


def test_names_and_notation_are_checked():
    with pytest.raises(sw.RuleError, match="there is no operator 'shardwright_tests::scale_row'"):
        sw.register_rule("shardwright_tests::scale_row", "a -> a")
    with pytest.raises(sw.RuleError, match="is no operator name"):
        sw.register_rule("scale_rows", "a -> a")
    with pytest.raises(sw.RuleError, match="exactly one '->'"):
        sw.register_rule("shardwright_tests::mix", "a b")
