"""Decoders of packed weights, written on real ranks as their dequantised selves write."""

import pytest

import shardwright as sw
from shardwright.generate.text import TextRequest
from tests.support.packed_weights import BLOCKS, pack_blocks, pack_ints, said_compressed, write_packed
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


@pytest.mark.ranks
@pytest.mark.parametrize("kind", KINDS)
def test_text_on_real_ranks(kind, tmp_path):
    model = write_packed(tmp_path / "model", *KINDS[kind], num_hidden_layers=2, tokenizer=True)
    sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=2, cache_length=40)
    requests = [TextRequest(prompt, 8, chat=False, stream=False) for prompt in ("the cat sat", "one two three")]
    texts = on_ranks(2, written, str(tmp_path / "p"), requests)
    for first, second in zip(texts[0], texts[1], strict=True):
        assert first.ids == second.ids == greedy(model, first.prompt_ids, 8)
        assert first.text == make_tokenizer().decode(first.ids, skip_special_tokens=True)
