"""Experts packed one by one are held as stacks, and cut by expert or inside. Grouped matmuls take no float64."""

import pytest
import torch
from safetensors.torch import load_file

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    BLOCKS,
    cut_right,
    opened_packed,
    pack_blocks,
    pack_ints,
    said_compressed,
    same_numbers,
    write_packed,
)

KINDS = {
    "fp8 in blocks": (pack_blocks, BLOCKS),
    "int4 in groups": (
        lambda weight: pack_ints(weight, 4, (1, 16), symmetric=False),
        said_compressed(4, (1, 16), "pack-quantized", symmetric=False),
    ),
}


@pytest.mark.parametrize(("kind", "num_parts", "num_ranks"), [("fp8 in blocks", 2, 3), ("int4 in groups", 3, 2)])
def test_ranks_give_the_dequantised_models_numbers(kind, num_parts, num_ranks, tmp_path):
    model = write_packed(tmp_path / "model", *KINDS[kind], "mixtral", dtype=torch.float32)
    opened, real = opened_packed(tmp_path / "model", dtype=torch.float32)
    assert not opened.unused
    assert same_numbers(real, model, within=1e-5)
    assert len([name for name in real.state_dict if ".gate_up_proj__w1__weight" in name]) == num_parts
    cut_right(real, num_ranks, within=1e-5)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_plan_names_the_experts_tensor(dim, tmp_path):
    write_packed(tmp_path / "model", *KINDS["fp8 in blocks"], "mixtral", dtype=torch.float32)
    _, real = opened_packed(tmp_path / "model", dtype=torch.float32)
    sharded = cut_right(real, 2, {"**.experts.gate_up_proj": sw.Shard(dim)}, within=1e-5)
    where = {one.name.rpartition(".")[2]: one.layouts["tp"] for one in sharded.weights}
    assert {where[f"gate_up_proj__{one}__weight"].dim for one in ("w1", "w3")} == {dim}


def test_a_package_holds_the_checkpoints_own_bytes(tmp_path):
    write_packed(tmp_path / "model", *KINDS["int4 in groups"], "mixtral", dtype=torch.float32)
    opened, _ = opened_packed(tmp_path / "model", dtype=torch.float32)
    opened.save(sw.shard(opened.exported, mesh=2), tmp_path / "p")
    sw.gather(tmp_path / "p", tmp_path / "gathered.safetensors")
    stored, found = load_file(tmp_path / "model" / "model.safetensors"), load_file(tmp_path / "gathered.safetensors")
    (stack,) = (found[name] for name in found if name.endswith("down_proj__w2__weight_packed"))
    for number, one in enumerate(stack):
        (name,) = (name for name in stored if name.endswith(f"experts.{number}.w2.weight_packed"))
        assert torch.equal(one, stored[name])


def test_another_number_of_experts_is_named(tmp_path):
    write_packed(tmp_path / "model", *KINDS["fp8 in blocks"], "mixtral", dtype=torch.float32)
    config = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(config.replace('"num_local_experts": 4', '"num_local_experts": 3'))
    says = r"packed with shape \(4, 192, 48\), the configuration says \(3, 192, 48\)"
    with pytest.raises(sw.CheckpointError, match=says):
        open_checkpoint(tmp_path / "model", cache_length=0)
