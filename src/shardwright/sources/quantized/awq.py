"""AWQ: integers of 4 bits along the output features, the eight of a word interleaved, as AutoAWQ writes them (GEMM).

``qweight`` (in, out / 8), ``qzeros`` (groups, out / 8), ``scales`` (groups, out).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import CheckpointError
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.quantized.config_values import whole_number
from shardwright.sources.quantized.layout_name import layout_name
from shardwright.sources.quantized.unpack import WORD_BITS, scaled, unpack_words
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight

BITS = 4
"""All that the format knows."""


@dataclass(frozen=True, slots=True)
class UnpackAwq:
    """Unpacks a weight of ``shape``."""

    shape: tuple[int, int]
    group: int

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``."""
        rows = self.shape[0]
        numbers, zeros = (
            unpack_words(parts[last], BITS, rows, -1, is_interleaved=True).mT for last in ("qweight", "qzeros")
        )
        return scaled(numbers, parts["scales"].mT, zeros, (1, self.group), dtype)


def find_awq(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: Any) -> FoundPacked:
    """The weights that AWQ packed; raises `CheckpointError` for a layout that is not read."""
    layout = layout_name(config, ("version", "format", "checkpoint_format"), "gemm")
    bits = whole_number(config, ("bits", "w_bit"), BITS)
    if layout != "gemm" or bits != BITS:
        raise CheckpointError(
            f"AWQ stores weights of {bits} bits in the layout {layout!r}, which is not read\n"
            f"  try: the checkpoint of {BITS} bits in the layout 'gemm'"
        )
    # 0 or -1: all columns are one group.
    size = whole_number(config, ("group_size", "q_group_size"), 128, least=-1)
    found = FoundPacked()
    for name in stored:
        path, _, last = name.rpartition(".")
        if last == "qweight":
            _add(found, path, stored, size)
    return found


def _add(found: FoundPacked, path: str, stored: Mapping[str, StoredTensor], size: int) -> None:
    parts = found.take(path, ("qweight", "qzeros", "scales"), stored, words=("qweight", "qzeros"))
    if not parts:
        return
    columns, num_words = parts["qweight"].shape
    rows = num_words * WORD_BITS // BITS
    group = size if size > 0 else columns
    num_groups = -(-columns // group)
    wanted = {
        "qweight": [(columns, num_words)],
        "qzeros": [(num_groups, num_words)],
        "scales": [(num_groups, rows)],
    }
    if found.fits(f"{path!r} of {columns} input features in groups of {group}", parts, wanted):
        unpack = UnpackAwq((rows, columns), group)
        found.weights[f"{path}.weight"] = PackedWeight((rows, columns), parts, unpack)
