"""Checkpoints of transformers' own quantisation: FP8 in blocks, and experts in MXFP4.

Its FP8 loader wants a GPU, its quantising operation does not. It makes MXFP4 by Triton kernels, so that torchao packs
the blocks here; what they stand for is what transformers loads.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import load_file, save_file
from torchao.prototype.mx_formats.mx_tensor import to_mx
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

from evals.quantised.sample import Sample, copy_around, write_base, write_each, write_plain

EXPERTS = {"hidden_size": 96, "intermediate_size": 192, "head_dim": 16, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 12, "num_key_value_heads": 12, "layer_types": ["full_attention"]}


def write_fp8(folder: Path, number: int, block: list[int], ranks: tuple[int, ...], **changes: int) -> None:
    """Blocks of this size, as transformers' operation makes them of every linear layer."""
    config = transformers.FineGrainedFP8Config(weight_block_size=tuple(block), modules_to_not_convert=["lm_head"])
    quantizer = SimpleNamespace(quantization_config=config)

    def pack(linear: torch.nn.Linear):
        parts = Fp8Quantize(quantizer).convert({"x.weight": linear.weight.detach()})
        numbers, scale = parts["x.weight"], parts["x.weight_scale_inv"]
        plain = Fp8Dequantize(quantizer)._dequantize_one(numbers, scale, torch.float32)
        return {"weight": numbers, "weight_scale_inv": scale}, plain

    own, name = folder / f"40-{number:02}" / "model", f"fp8: blocks of {block[0]} × {block[1]}"
    sample = Sample(name, "transformers 5.23.0, Fp8Quantize", str(own), tuple(block), ranks=ranks)
    write_each(write_base(folder, **changes), sample, pack, config.to_dict())


def write_mxfp4(folder: Path) -> None:
    """A gpt-oss whose experts are blocks."""
    base, own = write_base(folder, "gpt_oss", **EXPERTS, **HEADS), folder / "41-00" / "model"
    stored = load_file(base / "model.safetensors")
    experts = [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]
    for name in experts:
        # The model's tensor has columns before rows; blocks lie along the input features.
        scale, numbers = to_mx(stored.pop(name).mT.contiguous(), torch.float4_e2m1fn_x2, 32)
        stored[f"{name}_blocks"] = numbers.view(torch.uint8).unflatten(-1, (-1, 16))
        stored[f"{name}_scales"] = scale.view(torch.uint8)
    config = transformers.Mxfp4Config(modules_to_not_convert=["model.layers.*.self_attn", "lm_head"]).to_dict()
    copy_around(base, own, {**config, "quant_method": "mxfp4"})
    save_file(stored, own / "model.safetensors", {"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(
        own, quantization_config=transformers.Mxfp4Config(dequantize=True), dtype=torch.float32
    )
    package = "torchao 0.18.0, to_mx; unpacked by transformers 5.23.0"
    # Grouped matmuls take no float64.
    sample = Sample("mxfp4: experts", package, str(own), (1, 32), ranks=(2, 4), dtype="float32")
    loaded = dict(model.named_parameters())
    write_plain(base, sample, {name: loaded[name].detach() for name in experts})
    assert json.loads((own / "config.json").read_text())["quantization_config"]["quant_method"] == "mxfp4"


def write(folder: Path) -> None:
    """All."""
    # 384 rows are three blocks: on two ranks and four, a cut of heads falls inside one.
    write_fp8(folder, 0, [128, 128], (2, 4), num_key_value_heads=24)
    write_fp8(folder, 1, [32, 32], ())
    write_mxfp4(folder)
