"""On an axis of one rank every layout is whole: no collectives, no groups, no pieces."""

import types

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.layout.cut import Blocks, Cut
from shardwright.layout.layout import REPLICATE, Partial, Shard, resolve
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.ranks import on_ranks

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
PLAN = {"0": "colwise", "2": "rowwise"}
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


def exported(**options):
    return torch.export.export(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)).eval(), (X,), **options)


@pytest.mark.parametrize(
    "layout", [Shard(0), Shard(-1), Shard(1, Blocks(parts=(4, 2))), Shard(0, Cut.even(4, 1)), Partial(), REPLICATE]
)
def test_every_layout_is_whole(layout):
    assert resolve(layout, (4, 6), 1) == REPLICATE


def test_what_does_not_fit_is_still_said():
    with pytest.raises(sw.ShardwrightError, match="cuts dim 2"):
        resolve(Shard(2), (4, 6), 1)
    with pytest.raises(sw.PlanError, match="matches no module"):
        sw.shard(exported(), mesh=1, plan={"9": "colwise"})


DEVICE_MESH = types.SimpleNamespace(mesh_dim_names=("tp",), shape=(1,))
ASKED = [
    {"plan": PLAN},
    {"plan": {"0.weight": Shard(0), "2": "rowwise"}},
    {"plan": PLAN, "inputs": Shard(0), "outputs": Shard(0)},
    {"plan": {"0": "colwise_rep", "2": "sequence_parallel"}},
    {"plan": "auto"},
    {"plan": {}, "inputs": Shard(1), "outputs": Shard(1)},
]


@pytest.mark.parametrize(("mesh", "asked"), [*((1, one) for one in ASKED), (DEVICE_MESH, ASKED[0])])
def test_one_rank(mesh, asked, tmp_path):
    original = exported()
    sharded = sw.shard(original, mesh=mesh, **asked)
    assert sharded.collectives == []
    assert {layout for weight in sharded.weights for layout in weight.layouts.values()} == {REPLICATE}
    assert sw.verify(sharded, original, (X,)).ok
    with torch.no_grad():
        wanted = original.module()(X)
        torch.testing.assert_close(sharded.exported(0).module()(X), wanted, rtol=0, atol=0)
        sharded.save(str(tmp_path / "out"))
        torch.testing.assert_close(sw.load(str(tmp_path / "out"))(X), wanted, rtol=0, atol=0)


def test_dynamic_sizes_on_one_rank():
    original = exported(dynamic_shapes=({0: torch.export.Dim("batch")},))
    sharded = sw.shard(original, mesh=1, plan=PLAN, inputs=Shard(0), outputs=Shard(0))
    assert sharded.collectives == []
    assert sharded.exported(0).module()(torch.randn(7, 8)).shape == (7, 8)


@pytest.mark.parametrize("mesh", [{"dp": 2, "tp": 1}, {"tp": 1, "dp": 2}], ids=str)
def test_beside_an_axis_of_several(mesh):
    original = torch.export.export(redraw(Decoder()), (IDS,))
    sharded = sw.shard(original, mesh=mesh, plan={"tp": MEGATRON})
    assert sharded.collectives == []
    cut = sw.shard(original, mesh=mesh, plan={"tp": MEGATRON, "dp": MEGATRON})
    assert {c.axis for c in cut.collectives} == {"dp"}
    assert sw.verify(cut, original, (IDS,)).ok


@pytest.mark.ranks
def test_a_package_of_two_ranks_on_an_axis_of_one(tmp_path):
    original = torch.export.export(redraw(Decoder()), (IDS,))
    for name, plan in (("whole", {"tp": MEGATRON}), ("cut", {"tp": MEGATRON, "dp": MEGATRON})):
        sw.shard(original, mesh={"dp": 2, "tp": 1}, plan=plan).save(str(tmp_path / name))
    with torch.no_grad():
        wanted = original.module()(IDS)
    for found in on_ranks(2, load_both, str(tmp_path)):
        for one in found:
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)


def load_both(rank, folder):
    with torch.no_grad():
        return [sw.load(f"{folder}/{name}")(IDS) for name in ("whole", "cut")]
