"""GPTQ: integers in words of 32 bits along the input features, as AutoGPTQ and GPTQModel write them.

``qweight`` (in · bits / 32, out), ``scales`` (groups, out), ``qzeros`` (groups, out · bits / 32), ``g_idx`` (in): the
group of each input feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.quantized.config_values import whole_number
from shardwright.sources.quantized.layout_name import layout_name
from shardwright.sources.quantized.unpack import WORD_BITS, scaled, unpack_words
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight

WITH_OFFSET, WITHOUT_OFFSET = "gptq", "gptq_v2"
"""Formats. In the first and older one zero points are stored less one, the subtraction done on whole words."""

READ_BITS = (2, 4, 8)
"""Those of a number that are read."""


@dataclass(frozen=True, slots=True)
class GptqScheme:
    """How the weights of a checkpoint are quantised.

    ``group``: the input features that share a scale; 0 or -1: all. ``has_order``: features were reordered, so that
    ``g_idx`` has to say their groups.
    """

    bits: int
    group: int
    has_order: bool
    has_offset: bool


@dataclass(frozen=True, slots=True)
class UnpackGptq:
    """Unpacks a weight of ``shape``."""

    shape: tuple[int, int]
    bits: int
    group: int
    has_offset: bool

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``."""
        rows, columns = self.shape
        zeros = parts["qzeros"]
        if self.has_offset:
            # One in each place, added to the word: a zero point of 0 was stored as a borrow from the next place.
            ones = sum(1 << place for place in range(0, WORD_BITS, self.bits))
            zeros = zeros + ones
        numbers = unpack_words(parts["qweight"], self.bits, columns, -2)
        zeros = unpack_words(zeros, self.bits, rows, -1)
        return scaled(numbers.mT, parts["scales"].mT, zeros.mT, (1, self.group), dtype, parts.get("g_idx"))


def find_gptq(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: Any) -> FoundPacked:
    """The weights that GPTQ packed; raises `CheckpointError` for a format that is not read."""
    form = layout_name(config, ("checkpoint_format", "format"), WITH_OFFSET)
    if form not in (WITH_OFFSET, WITHOUT_OFFSET):
        raise CheckpointError(
            f"GPTQ stores weights as {form!r}, which is not read\n"
            f"  try: the checkpoint in the format {WITH_OFFSET!r} or {WITHOUT_OFFSET!r}"
        )
    bits = whole_number(config, ("bits",), 4, allow_null=True)
    if bits not in READ_BITS:
        raise CheckpointError(
            f"GPTQ stores numbers of {bits} bits; those of 2, 4 and 8 bits are read\n"
            "  try: a checkpoint of one of these, or the unquantised one"
        )
    group = whole_number(config, ("group_size",), -1, least=-1, allow_null=True)
    scheme, found = GptqScheme(bits, group, bool(config.get("desc_act")), form == WITH_OFFSET), FoundPacked()
    for name in stored:
        path, _, last = name.rpartition(".")
        if last == "qweight":
            _add(found, path, stored, scheme)
        elif last == "g_idx":
            found.used.add(name)
    return found


def _add(found: FoundPacked, path: str, stored: Mapping[str, StoredTensor], scheme: GptqScheme) -> None:
    parts = found.take(path, ("qweight", "qzeros", "scales"), stored, words=("qweight", "qzeros"))
    if not parts:
        return
    bits, (num_words, rows) = scheme.bits, parts["qweight"].shape
    ordered = stored.get(f"{path}.g_idx")
    if ordered is not None and not found.holds_integers(ordered, 1):
        return
    columns = ordered.shape[0] if ordered is not None else num_words * WORD_BITS // bits
    group = scheme.group if scheme.group > 0 else columns
    if ordered is None and scheme.has_order and scheme.group > 0:
        found.wrong.append(
            Finding(
                f"'{path}.g_idx' is missing, which says the group of each feature in act-order (desc_act)",
                remedies=("the files as they were written, or desc_act false where the features were not reordered",),
            )
        )
        return
    num_groups = -(-columns // group)
    wanted = {
        "qweight": [(-(-columns * bits // WORD_BITS), rows)],
        "qzeros": [(num_groups, -(-rows * bits // WORD_BITS))],
        "scales": [(num_groups, rows)],
    }
    if not found.fits(f"{path!r} of {bits} bits, {columns} input features in groups of {group}", parts, wanted):
        return
    if ordered is not None and not found.in_order(ordered.name, ordered.read(), group, num_groups):
        parts["g_idx"] = ordered
    unpack = UnpackGptq((rows, columns), bits, group, scheme.has_offset)
    found.weights[f"{path}.weight"] = PackedWeight((rows, columns), parts, unpack)
