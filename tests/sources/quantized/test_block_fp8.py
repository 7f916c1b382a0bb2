"""8-bit floats with a scale a block: scales go with their rows, wherever ranks are cut."""

from pathlib import Path

import pytest
import torch

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.quantized.block_fp8 import find_blocks
from tests.support.packed_weights import (
    BLOCKS,
    cut_right,
    opened_packed,
    pack_blocks,
    same_numbers,
    stays_packed,
    write_packed,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The folder of a checkpoint, the model it stands for, what was opened, and the program with its weights."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    model = write_packed(folder, pack_blocks, BLOCKS)
    return folder, model, *opened_packed(folder)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_give_the_dequantised_models_numbers(num_ranks, packed, tmp_path):
    folder, model, opened, real = packed
    assert not opened.unused
    assert same_numbers(real, model)
    cut_right(real, num_ranks)
    if num_ranks == 3:
        assert stays_packed(folder, opened, num_ranks, tmp_path)


def test_one_scale_for_all(tmp_path):
    said = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    model = write_packed(tmp_path / "model", lambda weight: pack_blocks(weight, (0, 0)), said)
    assert same_numbers(opened_packed(tmp_path / "model")[1], model)


def test_scales_of_other_blocks_are_named(tmp_path):
    write_packed(tmp_path / "model", pack_blocks, {**BLOCKS, "weight_block_size": [32, 20]})
    says = r"in blocks of \[32, 20\]: weight_scale_inv is \(3, 3\), not \(2, 3\)"
    with pytest.raises(sw.CheckpointError, match=says):
        open_checkpoint(tmp_path / "model", cache_length=0, dtype=torch.float64)


@pytest.mark.parametrize("name", ["experts.gate_up_proj", "experts.weight"])
def test_a_stack_of_experts_with_a_scale_is_named(name):
    shapes = {name: (4, 40, 40), f"{name}_scale_inv": (4, 2, 2)}
    stored = {key: StoredTensor(shape, Path("x"), key, torch.float8_e4m3fn) for key, shape in shapes.items()}
    (wrong,) = find_blocks(BLOCKS, stored, None).wrong
    assert f"'{name}' of shape (4, 40, 40) has the scale '{name}_scale_inv'" in wrong.what
