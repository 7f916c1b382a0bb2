"""Checkpoints that compressed-tensors' `ModelCompressor` writes, of scales that its own functions work out."""

from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam, maybe_pad_tensor_for_block_quant

from evals.quantised.sample import Sample, copy_around, each_projection, load_base, write_base, write_plain

PACKAGE = "compressed-tensors 0.20.1"
GROUP = {"strategy": "group", "group_size": 32}
FP8 = {"num_bits": 8, "type": "float"}
TOKEN_INT8 = {"num_bits": 8, "strategy": "token", "dynamic": True}
TOKEN_FP8 = {**TOKEN_INT8, "type": "float"}

SCHEMES = {
    "int4, groups of 32": ({"num_bits": 4, **GROUP}, None, (1, 32), (2, 4)),
    "int4, groups of 32, zero points": ({"num_bits": 4, **GROUP, "symmetric": False}, None, (8, 32), ()),
    "int4, a scale a row": ({"num_bits": 4, "strategy": "channel"}, None, (1, 8), ()),
    "int4, a scale a row, zero points": ({"num_bits": 4, "strategy": "channel", "symmetric": False}, None, (8, 8), ()),
    "int3, groups of 32": ({"num_bits": 3, **GROUP}, None, (1, 32), (3,)),
    **{f"int{bits}, groups of 32": ({"num_bits": bits, **GROUP}, None, (1, 32), ()) for bits in (2, 5, 7)},
    "int6, groups of 32, zero points": ({"num_bits": 6, **GROUP, "symmetric": False}, None, (32, 32), ()),
    "int8 in words, groups of 32": ({"num_bits": 8, **GROUP}, None, (1, 32), ()),
    "int8, a scale a row, for int8 matmuls": ({"num_bits": 8, "strategy": "channel"}, TOKEN_INT8, (1, 1), (2,)),
    "fp8, a scale a tensor": ({**FP8, "strategy": "tensor"}, TOKEN_FP8, (1, 1), ()),
    "fp8, a scale a row": ({**FP8, "strategy": "channel"}, TOKEN_FP8, (1, 1), ()),
    "fp8, weights alone": ({**FP8, "strategy": "channel"}, None, (1, 1), ()),
    "fp8, blocks of 128 × 128 (192 rows: 128 and 64)": (
        {**FP8, "strategy": "block", "block_structure": [128, 128]},
        {**FP8, "strategy": "group", "group_size": 128, "dynamic": True},
        (128, 128),
        (2,),
    ),
}
"""Weights, activations, the unit and numbers of real ranks."""

REFUSED = {
    "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    "mxfp4": {"num_bits": 4, "type": "float", **GROUP, "scale_dtype": torch.uint8},
}
"""What is written and not read."""


def set_scales(module: torch.nn.Module) -> None:
    """Scales and zero points of a module, by the package's own rule for the extremes of what shares one."""
    args, weight = module.quantization_scheme.weights, module.weight.data
    if args.strategy == "tensor":
        low, high = weight.min().view(1), weight.max().view(1)
    elif args.strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    elif args.strategy == "block":
        rows, columns = args.block_structure
        blocks = maybe_pad_tensor_for_block_quant(weight, (rows, columns))
        blocks = blocks.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    else:
        groups = weight.unflatten(1, (-1, args.group_size))
        low, high = groups.amin(-1), groups.amax(-1)
    whole = getattr(module, "weight_global_scale", None)
    if whole is not None:
        whole.data = generate_gparam(weight.min(), weight.max()).view_as(whole)
    scale, zeros = calculate_qparams(low, high, args, **({} if whole is None else {"global_scale": whole.data}))
    shape = module.weight_scale.shape if args.strategy != "block" else scale.shape
    module.weight_scale.data = scale.to(module.weight_scale.dtype).view(shape)
    module.weight_zero_point.data = zeros.to(module.weight_zero_point.dtype).view(shape)


def write_one(base: Path, folder: Path, weights: dict, activations: dict | None, sample: Sample) -> None:
    """A checkpoint as the package writes it, and what the package decompresses it to."""
    model = load_base(base)
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**weights),
        input_activations=QuantizationArgs(**activations) if activations else None,
    )
    groups = {"config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}
    apply_quantization_config(model, QuantizationConfig(**groups, quantization_status=QuantizationStatus.INITIALIZED))
    for _, layer in each_projection(model):
        set_scales(layer)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    copy_around(base, folder)
    if sample.refused:
        sample.save()
        return
    compressor.decompress_model(model)
    write_plain(base, sample, {f"{name}.weight": layer.weight.detach() for name, layer in each_projection(model)})


def write(folder: Path) -> None:
    """All schemes."""
    base = write_base(folder)
    for number, (name, (weights, activations, unit, ranks)) in enumerate(SCHEMES.items()):
        own = folder / f"10-{number:02}" / "model"
        sample = Sample(f"compressed-tensors: {name}", PACKAGE, str(own), unit, ranks=ranks)
        write_one(base, own, weights, activations, sample)
    for number, (name, weights) in enumerate(REFUSED.items()):
        own = folder / f"11-{number:02}" / "model"
        sample = Sample(f"compressed-tensors: {name}", PACKAGE, str(own), refused=f"{name}-pack-quantized")
        write_one(base, own, weights, None, sample)
