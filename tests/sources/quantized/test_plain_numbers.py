"""Quantised numbers whose scale is not found are never read as plain ones."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    BLOCKS,
    pack_blocks,
    pack_plain,
    renamed,
    replace,
    said_compressed,
    write_packed,
)

UP = "model.layers.0.mlp.up_proj"
INTS = (lambda weight: pack_plain(weight, 8, (1, 0)), said_compressed(8, (1, 0), "int-quantized"))
FLOATS = (pack_blocks, BLOCKS)


def rename(folder, old, new):
    file = folder / "model.safetensors"
    save_file(renamed(load_file(file), old, new), file, {"format": "pt"})


def drop_configuration(folder):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["quantization_config"]
    file.write_text(json.dumps(config))


LOST = {
    "a scale": (
        INTS,
        lambda f: replace(f, "up_proj.weight_scale", lambda one: None),
        f"(1 problem).*'{UP}.weight' is stored as torch.int8, .*: there is no scale beside it",
    ),
    "scales of floats": (
        FLOATS,
        lambda f: replace(f, "_proj.weight_scale_inv", lambda one: None if one.shape == (5, 3) else one),
        "(2 problems).*gate_proj.weight' is stored as torch.float8_e4m3fn.*up_proj.weight' is",
    ),
    "the name of a scale": (
        FLOATS,
        lambda f: rename(f, "up_proj.weight_scale_inv", "up_proj.weight_scale"),
        f"(1 problem).*: beside it are '{UP}.weight_scale'",
    ),
    "the configuration of integers": (INTS, drop_configuration, "(7 problems).*try: its quantization_config back"),
    "the configuration of floats": (FLOATS, drop_configuration, f"(7 problems).*beside it are '{UP}.weight_scale_inv'"),
}


# Without a configuration there is nothing to dequantise.
WAYS = [(name, None) for name in LOST] + [(name, torch.float32) for name in LOST if "configuration" not in name]


@pytest.mark.parametrize(("name", "dequantize"), WAYS)
def test_what_has_lost_its_scale_is_named(name, dequantize, tmp_path):
    packed, lose, says = LOST[name]
    write_packed(tmp_path / "model", *packed)
    lose(tmp_path / "model")
    says = says.replace("(", re.escape("(")).replace(")", re.escape(")"))
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(tmp_path / "model", cache_length=0, dequantize=dequantize)


@pytest.mark.parametrize("packed", [INTS, FLOATS], ids=["integers", "floats"])
def test_an_expert_that_lost_its_scale_is_named(packed, tmp_path):
    write_packed(tmp_path / "model", *packed, "mixtral")
    replace(tmp_path / "model", "experts.2.w1.weight_scale", lambda one: None)
    replace(tmp_path / "model", "experts.2.w1.weight_scale_inv", lambda one: None)
    says = r"(?s)\(1 problem\).*gate_up_proj' \('.*experts\.2\.w1\.weight'\) is stored as torch\.(int8|float8_e4m3fn)"
    with pytest.raises(sw.CheckpointError, match=says):
        open_checkpoint(tmp_path / "model", cache_length=0, dequantize=torch.float32)
