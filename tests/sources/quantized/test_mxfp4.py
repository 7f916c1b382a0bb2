"""Experts in blocks of 4-bit floats, as gpt-oss stores them: what ranks hold packed equals transformers' own model."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import shardwright as sw
from shardwright.generate.writing import TextRequest
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.quantized.mxfp4 import unpack_mxfp4
from tests.support.packed_weights import (
    cut_right,
    opened_packed,
    packed_bytes,
    replace,
    same_numbers,
    sends,
    stays_packed,
)
from tests.support.ranks import on_ranks
from tests.support.texts import greedy, written
from tests.support.tiny import write_checkpoint

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
KINDS = {"num_key_value_heads": 2, "layer_types": ["sliding_attention"], "sliding_window": 4}
# Grouped matmuls take no float64.
DTYPE = {"dtype": torch.float32}
PLAN = {"**.[q,k,v]_proj": "colwise", "**.o_proj": "rowwise"}
SCALES = 4 * 64 * 3
"""Bytes of the scales of the projection down."""


def write_blocks(folder, **changes):
    """A tiny gpt-oss whose experts are blocks and scales at random, of a size that keeps results near one."""
    write_checkpoint(folder, "gpt_oss", max_shard_size="1GB", tokenizer=True, **{**SIZES, **KINDS, **changes})
    generator, stored = torch.Generator().manual_seed(0), {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = weight
            continue
        experts, columns, rows = weight.shape
        shape = (experts, rows, columns // 32)
        stored[f"{name}_blocks"] = torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8)
        stored[f"{name}_scales"] = torch.randint(121, 126, shape, generator=generator, dtype=torch.uint8)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The folder of a checkpoint, what was opened, and the program with its weights."""
    folder = write_blocks(tmp_path_factory.mktemp("mxfp4") / "model")
    return folder, *opened_packed(folder, **DTYPE)


@pytest.fixture(scope="module")
def model(packed):
    """The model as transformers dequantises it."""
    return AutoModelForCausalLM.from_pretrained(
        packed[0], quantization_config=Mxfp4Config(dequantize=True), **DTYPE
    ).eval()


@pytest.fixture(scope="module")
def plain(packed):
    """The program with weights that were dequantised as they were read."""
    return opened_packed(packed[0], dtype=None, dequantize=torch.float32)[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_code_at_every_scale_is_what_transformers_unpacks(dtype):
    codes = torch.arange(16, dtype=torch.uint8)
    blocks = (codes | (codes.flip(0) << 4)).expand(1, 256, 1, 16)
    scales = torch.arange(256, dtype=torch.uint8).view(1, 256, 1)
    wanted, found = convert_moe_packed_tensors(blocks, scales, dtype=dtype), unpack_mxfp4(blocks, scales, dtype)
    assert found.shape == wanted.shape == (1, 32, 256)
    assert torch.equal(found.contiguous().view(torch.uint8), wanted.view(torch.uint8)), "zeros have a sign"


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_give_transformers_own_numbers(num_ranks, packed, model, tmp_path):
    folder, opened, real = packed
    assert not opened.unused
    assert same_numbers(real, model, within=1e-5)
    sharded = cut_right(real, num_ranks, within=1e-5)
    most, whole = packed_bytes(sharded, torch.uint8)
    # Three groups of columns do not divide among all ranks: where each is cut in itself, all have its scales.
    assert most <= whole / num_ranks + SCALES
    if num_ranks == 3:
        assert stays_packed(folder, opened, num_ranks, tmp_path)


@pytest.mark.ranks
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_text_on_real_ranks(num_ranks, packed, model, tmp_path):
    sw.shard_checkpoint(packed[0], tmp_path / "p", mesh=num_ranks, cache_length=24)
    texts = on_ranks(num_ranks, written, str(tmp_path / "p"), TextRequest(["the cat sat", "one two three"], 8))
    for first, *others in zip(*texts, strict=True):
        assert first.ids == greedy(model, first.prompt_ids, 8)
        assert all(other.ids == first.ids for other in others)


@pytest.mark.parametrize(("dim", "stored"), [(0, 0), (1, 2), (2, 1)])
def test_a_plan_cuts_experts_whole_groups_or_rows(dim, stored, packed):
    """It names the model's tensor, which has columns, of which groups are, before rows."""
    sharded = cut_right(packed[2], 3, {"**.experts.down_proj": sw.Shard(dim)}, within=1e-5)
    where = {one.name.rpartition(".")[2]: one.layouts["tp"].dim for one in sharded.weights if "down_proj_" in one.name}
    assert where["down_proj_blocks"] == where["down_proj_scales"] == stored


@pytest.mark.parametrize(("num_ranks", "up", "down"), [(2, 2, 1), (3, 2, 1), (4, 0, 0)])
def test_under_a_plan_ranks_send_what_those_of_the_plain_model_send(num_ranks, up, down, packed, plain):
    plan = {**PLAN, "**.experts.gate_up_proj": sw.Shard(up), "**.experts.down_proj": sw.Shard(down)}
    assert sends(sw.shard(packed[2], mesh=num_ranks, plan=plan)) == sends(sw.shard(plain, mesh=num_ranks, plan=plan))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_the_automatic_plan_sends_what_it_sends_of_the_plain_model(num_ranks, packed, plain):
    """Packed experts leave attention, which is more of what is stored beside them, the slack that it has there."""
    assert sends(sw.shard(packed[2], mesh=num_ranks)) == sends(sw.shard(plain, mesh=num_ranks))


def test_weights_are_dequantised_as_they_are_read(packed, plain):
    real = packed[2]
    ids = torch.tensor([[5, 17, 200, 31]])
    # The same weights, laid out otherwise in memory: a matmul may add in another order.
    torch.testing.assert_close(plain.module()(input_ids=ids), real.module()(input_ids=ids))
    assert not any(name.endswith("_blocks") for name in plain.state_dict)


@pytest.mark.parametrize(
    ("last", "make", "says"),
    [
        ("_scales", lambda one: None, "lacks 'model.layers.0.mlp.experts.gate_up_proj_scales'"),
        ("_scales", lambda one: one[:, :1].contiguous(), r"gate_up_proj_scales is \(4, 1, 2\), not \(4, 192, 2\)"),
        ("_blocks", lambda one: one.flatten(2), r"has the shape \(4, 192, 32\), not 4 dims"),
        ("_scales", lambda one: one.float(), "holds torch.float32, not uint8"),
    ],
)
def test_what_cannot_be_read_is_named(last, make, says, tmp_path):
    folder = write_blocks(tmp_path / "model")
    replace(folder, last, make)
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(folder, cache_length=0)
