"""Checkpoints that GPTQModel quantises, packs and saves; what they stand for is what its own linear layer unpacks.

Its `quantize` runs on a CPU. For bits and formats that would only be more of the same, its layer packs rounded weights.
"""

import os
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # On one or two cores it starts too few, and raises.

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.backend import BACKEND
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module
from safetensors.torch import load_file

from evals.quantised.sample import Sample, each_projection, load_base, write_base, write_each, write_plain

PACKAGE = "GPTQModel 7.7.0"
WHOLE = {"4 bits, groups of 32": {}, "4 bits, groups of 32, act-order": {"desc_act": True}}
"""What the package quantises from beginning to end."""

PACKED = {
    "2 bits, groups of 16": {"bits": 2, "group_size": 16},
    "8 bits, groups of 32, act-order": {"bits": 8, "group_size": 32, "desc_act": True},
    "4 bits, a scale a row": {"bits": 4, "group_size": -1},
    "gptq_v2, 4 bits, groups of 32": {"bits": 4, "group_size": 32, "format": "gptq_v2"},
}
"""What its layer packs."""


def empty_layer(columns: int, rows: int, *, bits: int, group_size: int, desc_act: bool = False, **_) -> TorchLinear:
    """The package's layer on a CPU, with buffers for packed words."""
    kind = {"bits": bits, "group_size": group_size, "desc_act": desc_act, "sym": False}
    sizes = {"in_features": columns, "out_features": rows, "bias": False, "register_buffers": True}
    made = TorchLinear(**kind, **sizes, pack_dtype=torch.int32, backend=BACKEND.GPTQ_TORCH, adapter=None)
    made.enable_wf_unsqueeze = True
    return made


def unpacked(layer: TorchLinear, form: str) -> torch.Tensor:
    """The weight that a layer stands for: the package's own function, in float64."""
    layer.scales = layer.scales.double()
    layer.qzero_format(format=1 if form == "gptq" else 2)
    if form == "gptq":
        config = QuantizeConfig(bits=layer.bits, group_size=layer.group_size)
        convert_gptq_v1_to_v2_format_module(layer, config.bits, torch.int32)
    layer._init_wf_unsqueeze_buffers()
    return layer.dequantize_weight().t()


def packer(*, bits: int, group_size: int, desc_act: bool = False, format: str = "gptq"):  # noqa: A002
    """Packs one layer, rounded to the nearest numbers; under ``desc_act`` columns are in groups at random."""

    def pack(linear: torch.nn.Linear):
        # Rows without a negative number have the zero point 0, which the older format stores as a borrow.
        linear.weight.data[:3] = linear.weight.data[:3].abs()
        weight = linear.weight.detach()
        rows, columns = weight.shape
        group = group_size if group_size > 0 else columns
        groups = torch.arange(columns, dtype=torch.int32) // group
        if desc_act:
            groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(rows))]
        order = groups.argsort(stable=True)
        blocks = weight[:, order].unflatten(1, (-1, group))
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).half().float()
        zeros = (-low / scale).round().clamp(0, 2**bits - 1)
        assert (zeros == 0).any()
        layer = empty_layer(columns, rows, bits=bits, group_size=group_size, desc_act=desc_act)
        layer.pack(linear, scale, zeros, groups)
        if format == "gptq":
            convert_gptq_v2_to_v1_format_module(layer, QuantizeConfig(bits=bits, group_size=group_size))
        parts = {name: getattr(layer, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
        return parts, unpacked(layer, format)

    return pack


def plain_of(folder: Path, base: Path, **how) -> dict[str, torch.Tensor]:
    """The weights of a saved checkpoint, each unpacked by the package's layer."""
    stored, found = load_file(folder / "model.safetensors"), {}
    for name, linear in each_projection(load_base(base)):
        layer = empty_layer(linear.in_features, linear.out_features, **how)
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            layer.register_buffer(part, stored[f"{name}.{part}"])
        found[f"{name}.weight"] = unpacked(layer, "gptq")
    return found


def write(folder: Path) -> None:
    """All schemes."""
    base = write_base(folder)
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 320, (96,), generator=draw).tolist() for _ in range(8)]
    given = [{"input_ids": text, "attention_mask": [1] * len(text)} for text in texts]
    for number, (name, how) in enumerate(WHOLE.items()):
        own, kind = folder / f"20-{number:02}" / "model", {"bits": 4, "group_size": 32, **how}
        model = GPTQModel.load(str(base), QuantizeConfig(**kind, sym=False, device="cpu"))
        model.quantize(given, batch_size=1)
        model.save(str(own))
        sample = Sample(f"gptq: {name}", f"{PACKAGE}, quantize and save", str(own), (8, 32), ranks=(2, 4))
        write_plain(base, sample, plain_of(own, base, **kind))
    for number, (name, how) in enumerate(PACKED.items()):
        own = folder / f"21-{number:02}" / "model"
        words, package = 32 // how["bits"], f"{PACKAGE}, its layer's pack"
        sample = Sample(f"gptq: {name}", package, str(own), (words, max(how["group_size"], words)))
        said = {"quant_method": "gptq", "desc_act": False, "checkpoint_format": how.get("format", "gptq"), **how}
        write_each(base, sample, packer(**how), said)
