"""A weight that is cut and gathered at every call is in the report by name, and a warning where it is much."""

import json
import warnings

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import shardwright as sw
from shardwright.cli.app import app
from shardwright.compiler.advice import GATHERED_WORTH_SAYING
from tests.support.models import Cache, Decoder, redraw
from tests.support.sharding import check_as_given, kinds


class Whole(nn.Module):
    """An inverse, which needs all of its weight, beside a layer of a given size that does not."""

    def __init__(self, size=8, beside=8):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(size) * 3 + torch.randn(size, size) / size)
        self.layer = nn.Linear(size, beside)

    def forward(self, x):
        return self.layer(x @ torch.linalg.inv(self.weight))


class Scaled(nn.Module):
    """A weight that is dequantised, then read whole."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bytes", torch.randint(1, 9, (8, 8), dtype=torch.int8))
        self.scale = nn.Parameter(torch.rand(8, 1) + 1)

    def forward(self, x):
        return x @ torch.linalg.inv(self.bytes * self.scale + 50 * torch.eye(8))


class Cast(nn.Module):
    """A weight of bytes that is cast, of whose dtype the exporter makes an assertion, and read as it is cut."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bytes", torch.randint(1, 9, (8, 8), dtype=torch.int8))

    def forward(self, x):
        return nn.functional.linear(x, self.bytes.to(x.dtype))


PLAN = {"weight": sw.Shard(0)}


def exported(model, *inputs):
    torch.manual_seed(0)
    return torch.export.export(model.eval(), inputs or (torch.randn(3, 8),))


def told(program, **options):
    """A sharding, and the warnings of gathered weights."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", sw.GatherWarning)
        sharded = sw.shard(program, **options)
    return sharded, [str(one.message) for one in seen if one.category is sw.GatherWarning]


def test_an_assertion_on_its_dtype_gathers_nothing():
    program = exported(Cast())
    assert any(node.target is torch.ops.aten._assert_tensor_metadata.default for node in program.graph.nodes)
    sharded, says = told(program, mesh=2, plan={"bytes": sw.Shard(0)})
    assert not sharded.gathered_weights
    assert not says


class Filled(nn.Module):
    """Numbers of a bias's dtype, of which nothing else is read there."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x) @ self.layer.bias.new_full((8, 8), 2.0) + torch.zeros_like(self.layer.bias)


def test_a_dtype_or_a_size_that_is_asked_for_gathers_nothing():
    sharded, says = told(exported(Filled()), mesh=2, plan={"layer": "colwise"})
    assert any(node.target is torch.ops.aten.new_full.default for node in sharded.program.graph.nodes)
    assert not sharded.gathered_weights
    assert not says


def test_a_gathered_weight_is_named_with_its_bytes():
    program = exported(Whole())
    sharded, says = told(program, mesh=2, plan=PLAN)
    (found,) = sharded.gathered_weights
    assert (found.weights, found.axis, found.num_bytes, found.plan_key) == (("weight",), "tp", 256, "weight")
    assert "linalg_inv" in found.reader
    assert found.source
    assert [c.num_bytes for c in sharded.collectives if c.kind == "all_gather"] == [256]
    assert "1 weights gathered at every call" in repr(sharded)
    assert len(says) == 1
    assert "weights of 256 bytes (47% of all) are gathered at every call: weight (256 bytes, read by aten." in says[0]
    assert sw.verify(sharded, program, (torch.randn(3, 8),)).ok


def test_a_small_share_is_in_the_report_only():
    beside = int(64 / GATHERED_WORTH_SAYING / 9) + 1
    sharded, says = told(exported(Whole(beside=beside)), mesh=2, plan=PLAN)
    assert [one.num_bytes for one in sharded.gathered_weights] == [256]
    assert not says


def test_what_is_made_of_weights_alone_is_one():
    sharded, says = told(exported(Scaled()), mesh=2, plan={"bytes": sw.Shard(0), "scale": sw.Shard(0)})
    assert sum(len(one.weights) for one in sharded.gathered_weights) == 2
    assert {name for one in sharded.gathered_weights for name in one.weights} == {"bytes", "scale"}
    assert says


def test_every_axis_says_its_own():
    sharded, _ = told(exported(Whole()), mesh={"dp": 2, "tp": 2}, plan={"dp": {}, "tp": PLAN})
    assert [one.axis for one in sharded.gathered_weights] == ["tp"]


def test_activations_caches_and_local_cuts_are_none():
    ids = torch.randint(0, 96, (2, 8))
    plan = {"layers.*.mlp.up_proj": "colwise_rep", "lm_head": "colwise_rep"}
    for model, inputs, given in (
        (redraw(Decoder()), (ids,), plan),
        (redraw(Cache()), (torch.randn(2, 1, 16), torch.tensor([0])), "auto"),
    ):
        sharded, says = told(exported(model, *inputs), mesh=2, plan=given)
        assert sharded.gathered_weights == []
        assert not says
        assert "gathered" not in repr(sharded)


def test_the_command_line_shows_them(tmp_path):
    torch.export.save(exported(Whole()), tmp_path / "model.pt2")
    (tmp_path / "plan.yaml").write_text("weight: {shard: 0}\n")
    words = [str(tmp_path / "model.pt2"), "--plan", str(tmp_path / "plan.yaml")]
    for command in (["inspect", *words], ["shard", *words, "-o", str(tmp_path / "p")]):
        with pytest.warns(sw.GatherWarning, match="weight \\(256 bytes"):
            result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        (row,) = json.loads(result.stdout)["weights_gathered_at_every_call"]
        assert (row["weights"], row["bytes each"], row["plan entry"]) == ("weight", 256, "weight")
    shown = CliRunner().invoke(app, ["inspect", *words], catch_exceptions=False)
    assert "Weights gathered at every call" in shown.output


class Tokens(nn.Module):
    """An MLP for so many tokens that its weights are smaller than what it computes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("decompose", [False, True])
def test_weights_are_not_gathered_though_activations_are_larger(decompose):
    # Decomposed, a linear reads its weight transposed: no less a weight.
    sharded = check_as_given(redraw(Tokens()), (torch.randn(400_000, 8),), 2, "auto", decompose=decompose)
    assert kinds(sharded) == {"all_reduce": 1}
