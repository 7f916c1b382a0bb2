"""Which weights of a checkpoint are packed, and how: by the configuration's method of quantisation, one finder each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding, raise_findings
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused
from shardwright.sources.hugging_face.names import Renaming
from shardwright.sources.quantized.awq import find_awq
from shardwright.sources.quantized.block_fp8 import find_blocks
from shardwright.sources.quantized.compressed_tensors import find_compressed
from shardwright.sources.quantized.gptq import find_gptq
from shardwright.sources.quantized.weight import FoundPacked, hold_packed, unpacked

FINDERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, StoredTensor], Any], FoundPacked]] = {
    "awq": find_awq,
    "compressed-tensors": find_compressed,
    "fp8": find_blocks,
    "gptq": find_gptq,
}
"""By ``quant_method``."""


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint is quantised. ``dequantize``: the dtype that its weights are unpacked to as they are read."""

    method: str
    config: Mapping[str, Any]
    dequantize: torch.dtype | None = None

    def place(self, model: Any, stored: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], list[Unused]]:
        """The tensors to read, by stored name, once the model's modules hold packed what the checkpoint packs.

        Under ``dequantize`` the model stays as it is, and packed weights are tensors that are unpacked. Also what is
        not read. Raises `CheckpointError` naming every weight that cannot be held packed.
        """
        found = FINDERS[self.method](self.config, stored, model)
        raise_findings(CheckpointError, found.wrong, summary=f"the checkpoint is not what {self.method} writes")
        if not found.weights:
            raise CheckpointError(
                f"the configuration says that weights are quantised by {self.method!r}, but none is stored so\n"
                "  try: remove its quantization_config, if they are plain"
            )
        parts = {part.name for packed in found.weights.values() for part in packed.parts.values()}
        gone = found.used | {one.name for one in found.unused}
        if self.dequantize is not None:
            plain = {name: tensor for name, tensor in stored.items() if name not in parts | gone}
            made = {name: unpacked(name, packed, self.dequantize) for name, packed in found.weights.items()}
            return {**plain, **made}, found.unused
        _hold(model, found)
        return {name: tensor for name, tensor in stored.items() if name in parts or name not in gone}, found.unused


def read_quantization(config: Any, dequantize: torch.dtype | None) -> Quantization | None:
    """How the checkpoint of a configuration is quantised; None where it is not. Raises `CheckpointError` if unread."""
    given = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if not given:
        if dequantize is not None:
            raise CheckpointError("the checkpoint is not quantised, so there is nothing to dequantise\n  try: dtype")
        return None
    found = given if isinstance(given, Mapping) else given.to_dict()
    method = str(found.get("quant_method"))
    if method not in FINDERS:
        raise CheckpointError(
            f"the weights are quantised by {method!r}, which is not read\n"
            f"  try: the unquantised checkpoint, its GGUF, or one by {', '.join(FINDERS)}"
        )
    return Quantization(method, found, dequantize)


def _hold(model: Any, found: FoundPacked) -> None:
    """Have the model's modules hold what is packed."""
    renaming, wrong = Renaming.of(model), []
    for stored, packed in found.weights.items():
        name, pattern = renaming.name(stored)
        parameter = renaming.wanted.get(name)
        if pattern is not None:
            wrong.append(
                Finding(
                    f"{stored!r} is packed, and the model makes {name!r} of it and others",
                    remedies=("--dequantize bfloat16 (dequantize=torch.bfloat16), which streams plain weights",),
                )
            )
        elif parameter is None:
            wrong.append(Finding(f"{stored!r} is packed, but the model has no such tensor"))
        elif tuple(parameter.shape) != packed.shape:
            wrong.append(Finding(f"{name!r} has shape {packed.shape}, the configuration says {tuple(parameter.shape)}"))
        else:
            hold_packed(model, name, packed)
    raise_findings(CheckpointError, wrong, summary="weights cannot be held packed")
