"""8-bit floats with a scale for each block of 128 × 128, as DeepSeek and Qwen publish them (``weight_scale_inv``).

Despite its name the scale multiplies. The last blocks of a weight whose sizes they do not divide are smaller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import Finding
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused
from shardwright.sources.quantized.config_values import block_sizes
from shardwright.sources.quantized.unpack import scaled
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight


@dataclass(frozen=True, slots=True)
class UnpackBlocks:
    """Unpacks a weight; ``block``: the rows and columns that share a scale; 0: all."""

    block: tuple[int, int]

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``."""
        return scaled(parts["weight"], parts["weight_scale_inv"], None, self.block, dtype)


def find_blocks(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: Any) -> FoundPacked:
    """The weights that have a scale for each block."""
    has_blocks = config.get("weight_block_size") is not None
    rows, columns = block_sizes(config, "weight_block_size") if has_blocks else (0, 0)
    unpack, found = UnpackBlocks((rows, columns)), FoundPacked()
    for name, scale in stored.items():
        path, _, last = name.rpartition(".")
        if last == "weight_scale_inv":
            parts = found.take(path, ("weight", "weight_scale_inv"), stored)
            if not parts:
                continue
            shape = parts["weight"].shape
            if len(shape) != 2:
                found.wrong.append(_stack(f"{path}.weight", stored, scale))
                continue
            grids = [(-(-shape[0] // rows), -(-shape[-1] // columns))] if rows else [(1,), ()]
            wanted = {"weight": [shape], "weight_scale_inv": grids}
            if found.fits(f"{path!r} of shape {shape} in blocks of {[rows, columns]}", parts, wanted):
                by_row = None if rows else ("weight", "weight_scale_inv")
                found.weights[f"{path}.weight"] = PackedWeight(shape, parts, unpack, by_row)
        elif last in ("activation_scale", "input_scale"):
            found.unused.append(Unused(name, scale.file.name, "activations are not quantised"))
        elif (plain := name.removesuffix("_scale_inv")) != name and plain in stored:
            found.wrong.append(_stack(plain, stored, scale))
    return found


def _stack(name: str, stored: Mapping[str, StoredTensor], scale: StoredTensor) -> Finding:
    """What is wrong with a weight whose experts lie in one stored tensor."""
    return Finding(
        f"{name!r} of shape {stored[name].shape} has the scale {scale.name!r}; scales are read for weights of two dims",
        remedies=("a checkpoint that stores its experts one by one, or the unquantised one",),
    )
