"""Words and groups of packed weights that are wider than a head: cuts move to whole words, and what ranks send."""

import functools

import pytest
import torch

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    PLAN,
    cut_right,
    opened_packed,
    pack_gptq,
    pack_ints,
    said_compressed,
    same_numbers,
    sends,
    write_packed,
)

# Heads of four features: a rank's six are 24 columns.
SIZES = {
    "hidden_size": 96,
    "num_attention_heads": 24,
    "num_key_value_heads": 12,
    "head_dim": 4,
    "intermediate_size": 192,
}
FORMATS = {
    "words of 8": (lambda weight: pack_gptq(weight, 4), {"quant_method": "gptq", "bits": 4, "group_size": 16}),
    "3 bits, which straddle words": (
        lambda weight: pack_ints(weight, 3, (1, 32)),
        said_compressed(3, (1, 32), "pack-quantized"),
    ),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A format's program with its weights, and a program of its plain weights."""

    @functools.cache
    def both(name):
        folder = tmp_path_factory.mktemp("packed") / "model"
        model = write_packed(folder, *FORMATS[name], **SIZES)
        _, real = opened_packed(folder)
        assert same_numbers(real, model, within=1e-6)
        return real, open_checkpoint(folder, cache_length=0, dequantize=torch.float64).exported

    return both


def pieces(sharded, name):
    """How many bytes of a tensor each rank has."""
    (found,) = [one.rank_bytes for one in sharded.weights if one.name.endswith(name)]
    return list(found)


@pytest.mark.parametrize("name", FORMATS)
def test_a_plan_cuts_between_words_and_sends_what_plain_weights_send(name, opened):
    real, plain = opened(name)
    assert sends(cut_right(real, 4, PLAN)) == sends(sw.shard(plain, mesh=4, plan=PLAN))


def test_a_cut_inside_of_a_word_moves_to_its_bounds(opened):
    """32 numbers of 3 bits are 3 words: 96 columns come apart in three, heads and scales with them."""
    sharded = cut_right(opened("3 bits, which straddle words")[0], 4, PLAN)
    rows, words, scale_bytes = 96, 3 * 4, 4
    assert pieces(sharded, "o_proj.weight_packed") == [rows * words] * 3 + [0]
    assert pieces(sharded, "o_proj.weight_scale") == [rows * scale_bytes] * 3 + [0]
    assert pieces(sharded, "q_proj.weight_packed") == [32 * 3 * words] * 3 + [0]


@pytest.mark.parametrize("name", FORMATS)
def test_the_automatic_plan_sends_no_more_where_words_lie_across_heads(name, opened):
    """But where a rank's heads are less than the words of 3 bits: one collective, of activations, more."""
    real, plain = opened(name)
    for num_ranks in (2, 4):
        more = sends(cut_right(real, num_ranks)).total() - sends(sw.shard(plain, mesh=num_ranks)).total()
        assert more <= (1 if num_ranks == 4 and "3 bits" in name else 0)
