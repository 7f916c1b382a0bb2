"""Encoders and decoders that read them: two sums a layer of an encoder, three of a decoder, as an expert has it."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import redraw
from tests.support.sharding import chunks, held, kinds, units

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

LAYERS, HEADS, HEAD_DIM, WORDS, WIDTH = 2, 4, 8, 256, 32
SOURCE = torch.randint(3, WORDS, (2, 6), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(3, WORDS, (2, 5), generator=torch.Generator().manual_seed(1))
SOUND = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(2)).double()
COMMON = {"vocab_size": WORDS, "d_model": WIDTH, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 2}
SIDES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", 64))
}


def t5():
    config = transformers.T5Config(
        **COMMON, d_kv=HEAD_DIM, d_ff=64, num_layers=LAYERS, num_heads=HEADS, relative_attention_num_buckets=8
    )
    return transformers.T5ForConditionalGeneration(config), SOURCE


def bart():
    config = transformers.BartConfig(**COMMON, **SIDES, max_position_embeddings=32)
    return transformers.BartForConditionalGeneration(config), SOURCE


def whisper():
    config = transformers.WhisperConfig(
        **COMMON, **SIDES, num_mel_bins=8, max_source_positions=6, max_target_positions=16, bos_token_id=1
    )
    return transformers.WhisperForConditionalGeneration(config), SOUND


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, source, target):
        return self.model(source, decoder_input_ids=target, use_cache=False).logits


@functools.cache
def exported_of(make):
    """The program of a model, and its first input."""
    model, source = make()
    return torch.export.export(Logits(redraw(model).double()), (source, TARGET)), source


def shard(make, num_ranks, plan="auto", **options):
    """The sharded program, equal to the original on every rank."""
    exported, source = exported_of(make)
    sharded = sw.shard(exported, mesh=num_ranks, plan=plan, **options)
    report = sw.verify(sharded, exported, (source, TARGET), tolerance=1e-6)
    assert report.ok, str(report)
    assert sharded.fallbacks == []
    return sharded


T5 = {"model.**.[q,k,v]": "colwise", "model.**.o": "rowwise", "model.**.wi": "colwise", "model.**.wo": "rowwise"}
BART = {
    "model.**.[q,k,v]_proj": "colwise",
    "model.**.out_proj": "rowwise",
    "model.**.fc1": "colwise",
    "model.**.fc2": "rowwise",
}
PLANS = {t5: T5, bart: BART, whisper: BART}
BLOCKS = {t5: "block", bart: "layers", whisper: "layers"}


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("make", PLANS)
def test_two_sums_a_layer_of_the_encoder_and_three_of_the_decoder(make, num_ranks):
    sharded = shard(make, num_ranks, PLANS[make])
    assert kinds(sharded) == {"all_reduce": 2 * LAYERS + 3 * LAYERS}
    heads = chunks(HEADS, num_ranks)
    rows = [w.name for w in sharded.weights if w.plan_key.endswith(("[q,k,v]", "[q,k,v]_proj"))]
    assert len([name for name in rows if name.endswith("weight")]) == 3 * 3 * LAYERS
    for name in rows:
        assert units(sharded, name, HEAD_DIM) == heads
    for name in (w.name for w in sharded.weights if "relative_attention_bias" in w.name):
        # One table for all layers of a side: a feature for every head.
        assert held(sharded, name, 1) == heads


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("make", PLANS)
def test_the_automatic_plan_spends_what_an_expert_would(make, num_ranks):
    # Little slack, so that the vocabulary is cut too.
    sharded = shard(make, num_ranks, slack=0.05)
    logits = TARGET.numel() * WORDS * 8
    # Two look-ups (or the stem and one), and the logits.
    assert len(sharded.collectives) == 2 * LAYERS + 3 * LAYERS + 3
    assert [(c.kind, c.num_bytes) for c in sharded.collectives][-1] == ("all_gather", logits)
    for side, count in (("encoder", 2), ("decoder", 3)):
        for layer in range(LAYERS):
            inside = [c for c in sharded.collectives if f".{side}.{BLOCKS[make]}.{layer}." in c.module]
            assert len(inside) == count
