"""Decoders of packed weights, written on real ranks as their dequantised selves write."""

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

import shardwright as sw
from shardwright.cli.app import app
from shardwright.generate.writing import TextRequest
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import BLOCKS, pack_blocks, pack_ints, renamed, said_compressed, write_packed
from tests.support.ranks import on_ranks
from tests.support.texts import greedy, written
from tests.support.tiny import make_tokenizer

KINDS = {
    "int4 in groups": (
        lambda weight: pack_ints(weight, 4, (1, 16), symmetric=False),
        said_compressed(4, (1, 16), "pack-quantized", symmetric=False),
    ),
    "fp8 in blocks": (pack_blocks, BLOCKS),
}


@pytest.fixture(scope="module", params=KINDS)
def decoder(request, tmp_path_factory):
    """The dequantised model, and the checkpoint opened with a cache."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    model = write_packed(folder, *KINDS[request.param], num_hidden_layers=2, tokenizer=True)
    return model, open_checkpoint(folder, cache_length=40)


@pytest.mark.ranks
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_text_on_real_ranks(decoder, num_ranks, tmp_path):
    model, opened = decoder
    opened.save(sw.shard(opened.exported, mesh=num_ranks), tmp_path / "p")
    request = TextRequest(["the cat sat", "one two three"], 8, chat=False)
    texts = on_ranks(num_ranks, written, str(tmp_path / "p"), request)
    for first, *others in zip(*texts, strict=True):
        assert first.ids == greedy(model, first.prompt_ids, 8)
        assert all(other.ids == first.ids for other in others)
        assert first.text == make_tokenizer().decode(first.ids, skip_special_tokens=True)


def test_the_command_line_dequantises(tmp_path):
    write_packed(tmp_path / "model", *KINDS["int4 in groups"])
    asked = ["shard", str(tmp_path / "model"), "-o", str(tmp_path / "p"), "--cache-length", "0", "--dequantize"]
    refused = CliRunner().invoke(app, [*asked, "int4"])
    assert "--dequantize 'int4' is not one of float32, bfloat16" in str(refused.exception)
    refused = CliRunner().invoke(app, [*asked, "bfloat16", "--dtype", "float32"])
    assert "of the dtype torch.float32 and dequantised to torch.bfloat16 both" in str(refused.exception)
    assert not (tmp_path / "p").exists()
    assert CliRunner().invoke(app, [*asked, "bfloat16"]).exit_code == 0
    with safe_open(tmp_path / "p" / "weights-00000-of-00002.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert stored["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert not any("weight_" in name for name in stored)


def test_scales_of_another_layout_are_named(tmp_path):
    def pack(weight):
        parts, plain = pack_blocks(weight, (0, 0))
        return {**renamed(parts, "weight_scale_inv", "weight_scale"), "input_scale": torch.ones(())}, plain

    write_packed(tmp_path / "model", pack, {"quant_method": "fp8", "activation_scheme": "static"})
    with pytest.raises(sw.CheckpointError, match="the files hold input_scale, weight_scale, a layout") as caught:
        sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=2)
    assert "remove" not in str(caught.value)
