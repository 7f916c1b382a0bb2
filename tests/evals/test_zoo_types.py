"""A dozen model types of different kinds on the path that the zoo takes with all of them."""

import warnings

import pytest

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from evals.zoo.measure import Run, measure
from evals.zoo.types import ModelType

EXPERTS_WOULD_SPEND = {
    # Two sums a layer of two, look-ups and logits.
    ("gemma2", "causal"): 2 * 2 + 3,
    ("bloom", "causal"): 2 * 2 + 3,
    ("gpt_oss", "causal"): 2 * 2 + 3,
    # Two a layer: for what all channels share, and for what leaves the block.
    ("mamba", "causal"): 2 * 2 + 3,
    ("esm", "base"): 2 * 2 + 3,
    ("deberta-v2", "base"): 2 * 2 + 3,
    # Two a layer of the encoder, three of the decoder.
    ("t5", "base"): 5 * 2 + 2,
    ("whisper", "base"): 5 * 2 + 2,
    # Two towers.
    ("clip", "base"): 2 * (2 * 2 + 2),
    ("swin", "base"): 2 * 2 + 3,
    ("convnext", "base"): 2 * 2 + 3,
    ("wav2vec2", "base"): 2 * 2 + 3,
}


@pytest.mark.parametrize(("name", "group"), EXPERTS_WOULD_SPEND)
def test_a_type_is_built_exported_sharded_and_equal(name, group):
    found = []
    with warnings.catch_warnings():
        measure(ModelType(name, group), [Run("auto", 2), Run("hf", 2)], found.append)
    records = {record["run"][0]: record for record in found if "verdict" in record}
    if records["hf"]["verdict"] == "no plan":
        del records["hf"]
    for record in records.values():
        assert record["verdict"] == "ok", record
        assert record["fallbacks"] == {}
        assert sum(record["collectives"].values()) <= EXPERTS_WOULD_SPEND[name, group]
        assert record["share"] < 0.6
