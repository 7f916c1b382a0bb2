"""MXFP4: 4-bit floats with a power of two for each 32 of a row, as gpt-oss stores its experts.

``gate_up_proj_blocks`` (experts, rows, groups, 16), two numbers a byte, the first in the lower half;
``gate_up_proj_scales`` (experts, rows, groups). What they stand for is the model's ``gate_up_proj`` (experts, columns,
rows): the input features, which groups divide, come before the output features there.
"""

from collections.abc import Mapping
from typing import Any

import torch

from shardwright.errors import Finding
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight

BLOCKS, SCALES = "_blocks", "_scales"
"""Ends of the names of stored tensors."""

BYTES_A_GROUP = 16


def unpack_mxfp4(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight (experts, columns, rows) as ``dtype``."""
    wide = torch.promote_types(torch.float32, dtype)
    numbers = halves(torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2), wide)
    return (numbers * half_of_power(scales).to(wide).unsqueeze(-1)).flatten(-2).mT.to(dtype)


def halves(codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Twice the numbers that codes stand for, which are whole: a sign bit, two bits of exponent, one of mantissa."""
    exponent, mantissa = (codes >> 1) & 3, codes & 1
    size = torch.where(exponent == 0, mantissa, (mantissa + 2) << (exponent.clamp(min=1) - 1))
    return size.to(dtype) * (1 - 2 * (codes >> 3).to(dtype))


def half_of_power(scales: torch.Tensor) -> torch.Tensor:
    """``2 ** (scales - 128)`` as float32, its bits written: no way of computing powers gives all of them exactly.

    Half of what a scale stands for: the whole would not be finite for the greatest.
    """
    scales = scales.to(torch.int32)
    return torch.where(scales < 2, (scales + 1) << 21, (scales - 1) << 23).view(torch.float32)


class UnpackMxfp4:
    """Unpacks the weight ``name`` of its module, the last token of its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``."""
        return unpack_mxfp4(parts[self.name + BLOCKS], parts[self.name + SCALES], dtype)


def find_mxfp4(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: Any) -> FoundPacked:
    """The weights that lie in blocks."""
    found = FoundPacked()
    for stem in dict.fromkeys(name.removesuffix(BLOCKS) for name in stored if name.endswith(BLOCKS)):
        path, _, last = stem.rpartition(".")
        parts = found.take(path, (last + BLOCKS, last + SCALES), stored)
        if not parts or not _holds_bytes(found, parts):
            continue
        blocks = parts[last + BLOCKS]
        if not found.has_dims(blocks, 4):
            continue
        num_experts, rows, groups, _ = blocks.shape
        wanted = {
            last + BLOCKS: [(num_experts, rows, groups, BYTES_A_GROUP)],
            last + SCALES: [(num_experts, rows, groups)],
        }
        if found.fits(repr(stem), parts, wanted):
            shape = (num_experts, groups * BYTES_A_GROUP * 2, rows)
            found.weights[stem] = PackedWeight(shape, parts, UnpackMxfp4(last))
    return found


def _holds_bytes(found: FoundPacked, parts: Mapping[str, StoredTensor]) -> bool:
    odd = [part for part in parts.values() if part.dtype != torch.uint8]
    found.wrong += [Finding(f"{part.name!r} in {part.file.name} holds {part.dtype}, not uint8") for part in odd]
    return not odd
