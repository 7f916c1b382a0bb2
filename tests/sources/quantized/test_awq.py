"""What AWQ packs, interleaved along output features, is cut both ways."""

import pytest
import torch

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    PLAN,
    cut_right,
    opened_packed,
    pack_awq,
    same_numbers,
    stays_packed,
    write_packed,
)

SAID = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The folder of a checkpoint, the model it stands for, what was opened, and the program with its weights."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    model = write_packed(folder, pack_awq, SAID)
    return folder, model, *opened_packed(folder)


@pytest.mark.parametrize(("num_ranks", "plan"), [(2, "auto"), (3, PLAN)])
def test_ranks_give_the_dequantised_models_numbers(num_ranks, plan, packed, tmp_path):
    folder, model, opened, real = packed
    assert not opened.unused
    assert same_numbers(real, model)
    sharded = cut_right(real, num_ranks, plan)
    if plan is PLAN:
        where = {one.name.removeprefix("model.layers.0."): one.layouts["tp"] for one in sharded.weights}
        assert where["mlp.down_proj.qweight"].dim == 0
        assert where["mlp.up_proj.qweight"].dim == 1
        assert stays_packed(folder, opened, num_ranks, tmp_path)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({**SAID, "format": "gemv"}, "contradicts itself: version 'gemm' and format 'gemv'"),
        ({**SAID, "version": "gemv"}, "layout 'gemv', which is not read"),
        ({**SAID, "group_size": 32}, r"groups of 32: qzeros is \(3, \d+\), not \(2, \d+\)"),
    ],
)
def test_what_cannot_be_read_is_named(quantization, says, tmp_path):
    write_packed(tmp_path / "model", pack_awq, quantization)
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(tmp_path / "model", cache_length=0, dtype=torch.float64)
