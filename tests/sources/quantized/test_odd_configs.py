"""Odd values in a quantization_config, and parts of odd shapes, are refused in words that name them."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.hugging_face.checkpoint_files import stored_tensors
from shardwright.sources.quantized.formats import read_quantization
from tests.support.packed_weights import BLOCKS, pack_blocks, pack_gptq, pack_ints, said_compressed, write_packed

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16}
WORDS = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def words(*shape, dtype=torch.int32):
    return torch.zeros(shape, dtype=dtype)


STORED = {
    "gptq": {"qweight": words(4, 32), "qzeros": words(2, 4), "scales": torch.ones(2, 32)},
    "awq": {"qweight": words(32, 4), "qzeros": words(2, 4), "scales": torch.ones(2, 32)},
    "fp8": {"weight": torch.ones(32, 32).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(2, 2)},
    "compressed-tensors": {
        "weight_packed": words(32, 4),
        "weight_scale": torch.ones(32, 2),
        "weight_shape": torch.tensor([32, 32]),
    },
}
"""By method, the parts of one weight of 32 × 32."""


def place(folder, config, **changes):
    """What is found of the parts of a weight under a configuration; ``changes``: other parts, or None for none."""
    parts = {**STORED.get(config["quant_method"] if isinstance(config, dict) else "", {}), **changes}
    save_file({f"up.{last}": part for last, part in parts.items()}, folder / "model.safetensors")
    stored, _ = stored_tensors(folder)
    quantization = read_quantization(SimpleNamespace(quantization_config=config), torch.float32)
    return quantization.place(torch.nn.Module(), stored).stored


def compressed(**changes):
    """A configuration with one group; ``changes`` to what it says of weights, None for what it does not say."""
    weights = {"num_bits": 4, "strategy": "group", "group_size": 16, **changes}
    weights = {key: value for key, value in weights.items() if value is not None}
    return {**WORDS, "config_groups": {"a": {"targets": ["Linear"], "weights": weights}}}


def grouped(group):
    return {**WORDS, "config_groups": {"a": group}}


def targets(*names):
    return grouped({**compressed()["config_groups"]["a"], "targets": list(names)})


@pytest.mark.parametrize("config", [GPTQ, AWQ, {"quant_method": "fp8", "weight_block_size": [16, 16]}, compressed()])
def test_what_the_odd_ones_are_changed_from_is_read(config, tmp_path):
    assert place(tmp_path, config)["up.weight"].read().shape == (32, 32)


NUMBERS = ("abc", "4", [4], {}, True, 4.0, 2**70)
CONFIGS = [
    *((value, "quantization_config must be a mapping") for value in ("gptq", 4, [GPTQ])),
    *(({**GPTQ, "bits": value}, r"quantization_config\.bits must be a whole number") for value in (*NUMBERS, -4, 0)),
    *(({**GPTQ, "bits": value}, f"{value} bits; those of 2, 4 and 8 bits are read") for value in (1, 3, 16, 32, 64)),
    *(({**GPTQ, "group_size": value}, r"config\.group_size must be a whole number") for value in (*NUMBERS, -2)),
    *(({**AWQ, "bits": value}, r"config\.bits must be a whole number") for value in (*NUMBERS, None, -4, 0)),
    ({"quant_method": "awq", "w_bit": "4"}, r"config\.w_bit must be a whole number of at least 1, got '4'"),
    ({**AWQ, "bits": 8}, "weights of 8 bits in the layout 'gemm', which is not read"),
    *(({**AWQ, "group_size": value}, r"config\.group_size must be a whole number") for value in (*NUMBERS, None, -2)),
    *(
        ({"quant_method": "fp8", "weight_block_size": value}, r"config\.weight_block_size(\[\d\])? must be")
        for value in (
            [128],
            128,
            [128, 0],
            [0, 128],
            [0, 0],
            ["a", "b"],
            [],
            "ab",
            {},
            0,
            [16, None],
            [1.5, 2],
            [1] * 3,
        )
    ),
    *((compressed(num_bits=value), r"groups\['a'\]\.weights\.num_bits must be") for value in (*NUMBERS, 0, -4)),
    (compressed(num_bits=None), r"weights lacks 'num_bits'"),
    (compressed(num_bits=9), "has 9 bits a number; at most 8"),
    *((compressed(group_size=value), r"weights\.group_size must be a whole") for value in (*NUMBERS, 0, -1)),
    (compressed(group_size=None), "weights lacks 'group_size'"),
    *((compressed(strategy=value), r"shares scales by .*, which is not read") for value in (["x"], {}, 5, "token")),
    *(
        (compressed(strategy="block", block_structure=value), r"weights\.block_structure(\[\d\])? must be")
        for value in (5, None, "ab", [16], [16, 0], ["a", 16])
    ),
    *((compressed(symmetric=value), r"weights\.symmetric must be True or False") for value in ("false", 0, [])),
    *(({**WORDS, "config_groups": value}, r"config\.config_groups must be a mapping") for value in ([{}], "a", 4)),
    *((grouped(value), r"config_groups\['a'\] must be a mapping") for value in ([], "a", 4, None)),
    *((grouped({"weights": value}), r"\['a'\]\.(targets|weights) must be") for value in ([], "a", 4)),
    *((grouped({"targets": ["Linear"], "weights": value}), r"weights must be a mapping") for value in ([], "a", 4)),
    *(
        (grouped({"targets": value, "weights": {}}), r"\['a'\]\.targets must be a list")
        for value in (None, "Linear", 4)
    ),
    (targets("Linear", 4), r"\['a'\]\.targets must be strings such as .*, got 4"),
    (targets("re:(", "re:[", "Linear"), r"(?s)2 problems.*'re:\(' is no regular expression.*'re:\['.*config_groups"),
    *(({**compressed(), "transform_config": value}, r"transform_config must be a mapping") for value in ([1], "a", 4)),
    *(({**compressed(), "sparsity_config": value}, r"sparsity_config must be a mapping") for value in ([1], "a", 4)),
]


@pytest.mark.parametrize(("config", "says"), CONFIGS, ids=[str(config)[:100] for config, _ in CONFIGS])
def test_an_odd_configuration_is_named(config, says, tmp_path):
    with pytest.raises(sw.CheckpointError, match=says):
        place(tmp_path, config)


ODD_WORDS = [words(), words(32), words(1, 32, 4), words(0, 4), words(32, 0), torch.ones(32, 4)]
ODD_SCALES = [torch.ones(()), torch.ones(3), torch.ones(2, 3, 2), torch.ones(0)]
PARTS = [
    *((config, {last: part}) for config in (GPTQ, AWQ) for last in ("qweight", "qzeros") for part in ODD_WORDS),
    *((config, {"scales": part}) for config in (GPTQ, AWQ) for part in ODD_SCALES),
    *((GPTQ, {"g_idx": part}) for part in (words(), words(0), words(2, 16), torch.zeros(32))),
    *((compressed(), {"weight_packed": part}) for part in ODD_WORDS),
    *((compressed(), {"weight_scale": part}) for part in ODD_SCALES),
    *(
        (compressed(), {"weight_shape": part})
        for part in (words(), words(0), words(2), torch.ones(2), words(2, 2) + 32)
    ),
    *((compressed(), {"weight_g_idx": part}) for part in (words(), words(0), words(2, 16), torch.zeros(32))),
    *(({"quant_method": "fp8"}, {"weight": part.to(torch.float8_e4m3fn)}) for part in ODD_SCALES),
    *(
        ({"quant_method": "fp8"}, {"weight_scale_inv": part})
        for part in (torch.ones(3), torch.ones(1, 1), torch.ones(0))
    ),
]


@pytest.mark.parametrize(
    ("config", "changes"),
    PARTS,
    ids=[f"{c['quant_method']} {' '.join(f'{k} {p.dtype} {list(p.shape)}' for k, p in m.items())}" for c, m in PARTS],
)
def test_a_part_of_an_odd_shape_is_named(config, changes, tmp_path):
    (last,) = changes
    with pytest.raises(sw.CheckpointError, match=f"1 problem.*(?s:.*){last}"):
        place(tmp_path, config, **changes)


@pytest.mark.parametrize(
    ("pack", "quantization", "says"),
    [
        (lambda weight: pack_gptq(weight, 4), "gptq", "json: quantization_config must be a mapping .*, got 'gptq'"),
        (lambda weight: pack_gptq(weight, 4), {**GPTQ, "bits": "4"}, r"config\.bits must be .*, got '4'"),
        (pack_blocks, {**BLOCKS, "weight_block_size": [128]}, r"weight_block_size must be two whole numbers"),
        (
            lambda weight: pack_ints(weight, 4, (1, 16)),
            {**said_compressed(4, (1, 16), "pack-quantized"), "config_groups": [1]},
            r"config_groups must be a mapping",
        ),
    ],
    ids=["no mapping", "gptq", "fp8", "compressed-tensors"],
)
def test_a_checkpoint_says_so_before_anything_is_written(pack, quantization, says, tmp_path):
    write_packed(tmp_path / "model", pack, quantization)
    with pytest.raises(sw.CheckpointError, match=says):
        open_checkpoint(tmp_path / "model", cache_length=0)
