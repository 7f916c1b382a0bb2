"""Checkpoints that transformers saves of torchao's weights; what they stand for is what torchao dequantises."""

from pathlib import Path

import torch
import transformers
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
)
from torchao.quantization.quant_primitives import MappingType

from evals.quantised.sample import Sample, copy_around, write_base, write_plain

PACKAGE = "torchao 0.18.0, transformers 5.23.0"
QUIET = {"set_inductor_config": False}
CONFIGS = {
    "int8, a scale a row": (lambda: Int8WeightOnlyConfig(**QUIET), (1, 1), (2, 4)),
    "int8, groups of 32": (lambda: Int8WeightOnlyConfig(granularity=PerGroup(32), **QUIET), (1, 32), ()),
    "int8, for quantised activations": (lambda: Int8DynamicActivationInt8WeightConfig(**QUIET), (1, 1), ()),
    "float8, a scale a row": (lambda: Float8WeightOnlyConfig(**QUIET), (1, 1), ()),
    "int4 in bytes, groups of 32, zero points": (
        lambda: IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=PerGroup(32), mapping_type=MappingType.ASYMMETRIC
        ),
        (1, 32),
        (),
    ),
}


def write(folder: Path) -> None:
    """All configurations."""
    base, how = write_base(folder), {"dtype": torch.float32}
    for number, (name, (config, unit, ranks)) in enumerate(CONFIGS.items()):
        own = folder / f"50-{number:02}" / "model"
        asked = transformers.TorchAoConfig(config())
        transformers.AutoModelForCausalLM.from_pretrained(base, quantization_config=asked, **how).save_pretrained(own)
        copy_around(base, own)
        read = transformers.AutoModelForCausalLM.from_pretrained(own, **how)
        weights = {key: one.dequantize() for key, one in read.named_parameters() if hasattr(one, "qdata")}
        write_plain(base, Sample(f"torchao: {name}", PACKAGE, str(own), unit, ranks=ranks), weights)
