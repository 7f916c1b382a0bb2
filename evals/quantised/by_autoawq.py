"""A checkpoint of AutoAWQ's own linear layer, which packs rounded weights; its `quantize` needs transformers 4.51."""

from pathlib import Path

import torch
import transformers
from awq.modules.linear.gemm import WQLinear_GEMM
from awq.utils.packing_utils import dequantize_gemm

from evals.quantised.sample import Sample, write_base, write_each

GROUP = 32


def pack(linear: torch.nn.Linear):
    """The package's layer, and what its own function unpacks of it, in float64."""
    blocks = linear.weight.detach().unflatten(1, (-1, GROUP))
    low, high = blocks.amin(-1), blocks.amax(-1)
    scale = ((high - low) / 15).half().float()
    zeros = (-(low / scale).round()).clamp(0, 15)
    layer = WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scale.t().contiguous(), zeros=zeros.t().contiguous())
    plain = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.double(), 4, GROUP).t()
    return {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}, plain


def write(folder: Path) -> None:
    """The layout that checkpoints have."""
    own = folder / "30-00" / "model"
    package = "AutoAWQ 0.2.9, WQLinear_GEMM.from_linear"
    sample = Sample("awq: gemm, 4 bits, groups of 32", package, str(own), (8, GROUP), ranks=(2, 4))
    said = transformers.AwqConfig(bits=4, group_size=GROUP, version="gemm", zero_point=True).to_dict()
    write_each(write_base(folder), sample, pack, said)
