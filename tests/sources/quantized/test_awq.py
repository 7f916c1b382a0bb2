"""What AWQ packs, interleaved along output features, is cut both ways."""

import pytest
import torch

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    PLAN,
    cut_right,
    opened_packed,
    quantize,
    same_numbers,
    stays_packed,
    words_of,
    write_packed,
)

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
SAID = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}


def pack(weight):
    """Integers and zero points along rows in words, the eight of a word in AWQ's order."""
    numbers, scale, zeros, plain = quantize(weight, 4, (1, 16), symmetric=False)

    def words(values):
        return words_of((values.int().t() + 8).unflatten(1, (-1, 8))[:, :, ORDER].flatten(1), 4, 1)

    return {"qweight": words(numbers), "qzeros": words(zeros), "scales": scale.t()}, plain


@pytest.mark.parametrize(("num_ranks", "plan"), [(2, "auto"), (3, PLAN)])
def test_ranks_give_the_dequantised_models_numbers(num_ranks, plan, tmp_path):
    model = write_packed(tmp_path / "model", pack, SAID)
    opened, real = opened_packed(tmp_path / "model")
    assert not opened.unused
    assert same_numbers(real, model)
    sharded = cut_right(real, num_ranks, plan)
    if plan is PLAN:
        where = {one.name.removeprefix("model.layers.0."): one.layouts["tp"] for one in sharded.weights}
        assert where["mlp.down_proj.qweight"].dim == 0
        assert where["mlp.up_proj.qweight"].dim == 1
        assert stays_packed(tmp_path / "model", opened, num_ranks, tmp_path)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({**SAID, "version": "gemv"}, "layout 'gemv', which is not read"),
        ({**SAID, "group_size": 32}, r"groups of 32: qzeros is \(3, \d+\), not \(2, \d+\)"),
    ],
)
def test_what_cannot_be_read_is_named(quantization, says, tmp_path):
    write_packed(tmp_path / "model", pack, quantization)
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(tmp_path / "model", cache_length=0, dtype=torch.float64)
