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
    """Takes what a test registers under a name out of the registry, and puts back what was there before."""
    before = {}
    yield lambda name: before.setdefault(name, ENTRIES.get(name))
    for name, entry in before.items():
        if entry is None:
            REGISTRY.remove(name)
        else:
            REGISTRY.add(name, entry, replace=True)


ENTRIES = {name: REGISTRY.entry_named(name) for name in REGISTRY.names()}
"""What is registered before any test."""


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
    with pytest.raises(sw.RuleError, match="is not an operator name"):
        sw.register_rule("scale_rows", "a -> a")
    with pytest.raises(sw.RuleError, match="exactly one '->'"):
        sw.register_rule("shardwright_tests::mix", "a b")


GOLDEN = {
    "mm": (torch.ops.aten.mm.default, [(4, 5), (5, 6)], "f0 f2, f2 f1 -> f0 f1"),
    "addmm": (torch.ops.aten.addmm.default, [(6,), (4, 5), (5, 6)], "f0, f1 f2, f2 f0 -> f1 f0"),
    "norm": (torch.ops.aten.layer_norm.default, [(4, 5), [5], (5,), (5,)], "f0 x1!, y0!, z0! -> f0 r01!"),
    "largest": (torch.ops.aten.amax.default, [(4, 5), [1]], "f0 f1 -> f0"),
    "scan": (torch.ops.aten.cumsum.default, [(4, 5), 1], "f0 x1! -> f0 r01!"),
    "copies": (torch.ops.aten.repeat_interleave.self_int, [(4, 5), 3, 0], "f0 f1 -> (f0 f0r0!) f1"),
    "sized": (torch.ops.aten.expand.default, [(4, 1, 5), [4, 7, 5]], "f0 x1! f1 -> f0 r01! f1"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_rules_are_discovered_by_running_operators(name, forget):
    op, given, wanted = GOLDEN[name]
    args = [torch.randn(a) if isinstance(a, tuple) else a for a in given]
    found = sw.discover_rule(op, *args)
    assert found.notation == wanted
    # What is proposed passes the check that users' rules pass.
    sw.register_rule(found.name, found.notation, **found.algebra)
    forget(found.name)
    assert sw.check_rule(op, *args) == []


def test_what_a_discovered_rule_says_to_paste():
    found = sw.discover_rule("aten::addmm", torch.randn(6), torch.randn(4, 5), torch.randn(5, 6))
    assert str(found) == 'register_rule("aten::addmm", "f0, f1 f2, f2 f0 -> f1 f0", added=[0])'


def test_nothing_is_discovered_where_no_dim_can_be_cut():
    assert sw.discover_rule("aten::linalg_inv", torch.randn(4, 4)) is None
    with pytest.raises(sw.RuleError, match="random or changes"):
        sw.discover_rule("aten::bernoulli", torch.rand(4))


def test_discovery_on_request_removes_a_gather(forget):
    forget("shardwright_tests::scale_rows")
    x = torch.randn(4, 8)
    exported = torch.export.export(Model(), (x,))
    before = sw.shard(exported, mesh=2, plan={"up": "colwise"})
    assert [f.op for f in before.fallbacks] == ["shardwright_tests.scale_rows.default"]
    after = sw.shard(exported, mesh=2, plan={"up": "colwise"}, discover=True)
    assert after.fallbacks == []
    assert [str(rule) for rule in after.discovered] == [
        'register_rule("shardwright_tests::scale_rows", "f0 x1!, f0 -> f0 r01!, f0")'
    ]
    assert sw.verify(after, exported, (x,)).ok


def test_discovery_leaves_symbolic_sizes_alone(forget):
    forget("shardwright_tests::scale_rows")
    x = torch.randn(4, 8)
    dynamic = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    exported = torch.export.export(Model(), (x,), dynamic_shapes=dynamic)
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise"}, discover=True)
    assert len(sharded.discovered) == 1
    sharded.exported(0).validate()
    assert sw.verify(sharded, exported, (torch.randn(7, 8),)).ok
