"""Small programs with quantised weights: torchao's configurations that run on a CPU, and PT2E."""

import torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
from torch import nn
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8DynamicActivationIntxWeightConfig,
    Int8StaticActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerAxis,
    PerGroup,
    PerRow,
    PerTensor,
    quantize_,
)
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from tests.support.models import redraw

GROUP = 32
PLAN = {"up": "colwise", "down": "rowwise"}

WEIGHT_ONLY = {
    "int8 by row": lambda: Int8WeightOnlyConfig(granularity=PerRow(), set_inductor_config=False),
    "int8 by group": lambda: Int8WeightOnlyConfig(granularity=PerGroup(GROUP), set_inductor_config=False),
    "int8 by tensor": lambda: Int8WeightOnlyConfig(granularity=PerTensor(), set_inductor_config=False),
    "float8": lambda: Float8WeightOnlyConfig(set_inductor_config=False),
    "intx by group": lambda: IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP)),
    "intx by row": lambda: IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=PerAxis(0)),
}
DYNAMIC = {
    "int8 activations": lambda: Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
    "asymmetric activations": lambda: Int8DynamicActivationInt8WeightConfig(
        act_mapping_type=MappingType.ASYMMETRIC, set_inductor_config=False
    ),
    "8da4w": lambda: Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(GROUP)),
}
FURTHER = {
    "float8 by group": lambda: Float8WeightOnlyConfig(granularity=PerGroup(GROUP), set_inductor_config=False),
    "float8 by tensor": lambda: Float8WeightOnlyConfig(granularity=PerTensor(), set_inductor_config=False),
    "int8 activations, by tensor": lambda: Int8DynamicActivationInt8WeightConfig(
        granularity=PerTensor(), set_inductor_config=False
    ),
    "static activations": lambda: Int8StaticActivationInt8WeightConfig(
        act_quant_scale=torch.tensor([[[0.05]]]), granularity=[PerTensor(), PerRow()], set_inductor_config=False
    ),
}
"""Configurations that differ from one of those above in what shares a scale."""
INT4 = {"int4": lambda: PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)}


class Block(nn.Module):
    """Two linear layers; hidden features in five groups of 32, which no number of ranks from 2 to 4 divides."""

    def __init__(self, width=64, hidden=160, *, bias=False):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden, bias=bias), nn.Linear(hidden, width, bias=bias)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def rows(width=64, dtype=torch.float32):
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(7)).to(dtype)


def quantized(config, model=None, inputs=None, dtype=torch.float32):
    """An exported program whose linear layers are quantised, and its inputs."""
    model = redraw(model or Block()).to(dtype)
    inputs = inputs or (rows(dtype=dtype),)
    quantize_(model, config())
    with torch.no_grad():
        return torch.export.export(model, inputs), inputs


def pt2e(kind, *, fold=True):
    """A block quantised by PT2E: ``"static"``, ``"dynamic"`` or ``"qat"``; ``fold``: weights are stored quantised."""
    model, x = redraw(Block(bias=True)), rows()
    in_training = kind == "qat"
    module = torch.export.export(model.train(in_training), (x,)).module()
    config = x86.get_default_x86_inductor_quantization_config(is_dynamic=kind == "dynamic", is_qat=in_training)
    prepare = prepare_qat_pt2e if in_training else prepare_pt2e
    prepared = prepare(module, x86.X86InductorQuantizer().set_global(config))
    prepared(x)
    if in_training:
        move_exported_model_to_eval(prepared)
    return torch.export.export(convert_pt2e(prepared, fold_quantize=fold), (x,)), (x,)


FORMS = {
    "exported": lambda exported: exported,
    "composites kept": lambda exported: exported.run_decompositions({}),
    "decomposed": lambda exported: exported.run_decompositions(),
}
