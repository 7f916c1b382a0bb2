"""The plan that a program was given, as a file to read, edit and give back."""

import pytest
import torch
import yaml

import shardwright as sw
from shardwright.report.written_plan import plan_of, plan_text
from tests.support.models import MEGATRON, Decoder, GroupedPacked, redraw
from tests.support.sharding import kinds

IDS = torch.zeros(2, 8, dtype=torch.long)


def both(model, args, mesh, tmp_path, plan="auto", **options):
    """The program of a plan, and that of the file its plan is written to."""
    exported = torch.export.export(redraw(model), args)
    sharded = sw.shard(exported, mesh=mesh, plan=plan, **options)
    sw.write_plan(sharded, tmp_path / "plan.yaml")
    return sharded, sw.shard(exported, mesh=mesh, plan=tmp_path / "plan.yaml", **options)


def same(one, other):
    """Whether two programs have the same mesh, layouts and collectives."""
    layouts = [[(w.name, dict(w.layouts)) for w in sharded.weights] for sharded in (one, other)]
    sent = [[(c.kind, c.axis, c.shape, c.module) for c in sharded.collectives] for sharded in (one, other)]
    return one.mesh == other.mesh and layouts[0] == layouts[1] and sent[0] == sent[1]


@pytest.mark.parametrize("plan", ["auto", MEGATRON])
@pytest.mark.parametrize("heads", [(8, 4), (9, 3)], ids=["even", "uneven"])
def test_a_plan_read_back_gives_the_same_program(plan, heads, tmp_path):
    query, pairs = heads
    model = Decoder(layers=3, width=8 * query, heads=query, kv_heads=pairs)
    assert same(*both(model, (IDS,), 2, tmp_path, plan))


def test_of_heads_fewer_than_ranks(tmp_path):
    sharded, again = both(Decoder(heads=8, kv_heads=2, width=64), (IDS,), 4, tmp_path, MEGATRON)
    assert sharded.mesh.names == ("tp.0", "tp.1")
    assert plan_of(sharded, "tp")["layers.*.self_attn.k_proj.weight"] == "colwise"
    assert same(sharded, again)


def test_parts_and_units_are_written(tmp_path):
    sharded, again = both(GroupedPacked(), (torch.randn(2, 5, 32),), 2, tmp_path, {"qkv": "colwise", "out": "rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}
    assert "parts: [32, 16, 16]" in (tmp_path / "plan.yaml").read_text()
    assert same(sharded, again)


def test_layers_are_written_once_under_their_module():
    exported = torch.export.export(redraw(Decoder(layers=6)), (IDS,))
    text = plan_text(sw.shard(exported, mesh=2, plan=MEGATRON), "tp")
    assert len(yaml.safe_load(text)) == 9 + 3 + 1  # a layer's, embedding, norm and head, and one buffer
    blocks = [block.splitlines() for block in text.split("\n\n")]
    (mlp,) = [block for block in blocks if block[0].startswith("# layers.*.mlp")]
    assert mlp[0] == "# layers.*.mlp; 6 × all_reduce of 4.0 KiB"
    assert mlp[1] == "layers.*.mlp.gate_proj.weight: {shard: 0}  # 6 × 32.0 KiB, 96.0 KiB a rank"
    assert [line.split(":")[0].split(".")[3] for line in mlp[1:]] == ["gate_proj", "up_proj", "down_proj"]


def test_one_axis_of_several(tmp_path):
    exported = torch.export.export(redraw(Decoder()), (IDS,))
    sharded = sw.shard(exported, mesh={"dp": 2, "tp": 2}, plan={"tp": MEGATRON}, inputs={"dp": {"ids": sw.Shard(0)}})
    sw.write_plan(sharded, tmp_path / "dp.yaml", axis="dp")
    assert {*yaml.safe_load((tmp_path / "dp.yaml").read_text()).values()} == {"replicate"}
    sw.write_plan(sharded, tmp_path / "tp.yaml")
    assert yaml.safe_load((tmp_path / "tp.yaml").read_text())["layers.*.mlp.down_proj.weight"] == {"shard": 1}
    with pytest.raises(sw.ShardwrightError, match=r"no axis 'pp'\n  try: axis= one of 'dp', 'tp'"):
        sw.write_plan(sharded, tmp_path / "pp.yaml", axis="pp")
    with pytest.raises(sw.ShardwrightError, match="write_plan takes what `shard` returned, got int"):
        sw.write_plan(3, tmp_path / "other.yaml")
    with pytest.raises(sw.ShardwrightError, match="exists already"):
        sw.write_plan(sharded, tmp_path / "tp.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dp.yaml", "tp.yaml"]
