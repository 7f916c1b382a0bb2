"""Which weights of a checkpoint are packed, and how: by the configuration's method of quantisation, one finder each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding, raise_findings
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused
from shardwright.sources.hugging_face.names import Renaming
from shardwright.sources.quantized.awq import find_awq
from shardwright.sources.quantized.block_fp8 import find_blocks
from shardwright.sources.quantized.compressed_tensors import find_compressed
from shardwright.sources.quantized.config_values import whole_config
from shardwright.sources.quantized.gptq import find_gptq
from shardwright.sources.quantized.mxfp4 import find_mxfp4
from shardwright.sources.quantized.plain_numbers import scale_names
from shardwright.sources.quantized.stacks import StackedTensor, hold_experts
from shardwright.sources.quantized.torchao_tensors import METHOD as TORCHAO
from shardwright.sources.quantized.torchao_tensors import find_torchao, is_by_torchao
from shardwright.sources.quantized.weight import FoundPacked, hold_packed, unpacked

FINDERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, StoredTensor], Any], FoundPacked]] = {
    "awq": find_awq,
    "compressed-tensors": find_compressed,
    "fp8": find_blocks,
    "gptq": find_gptq,
    "mxfp4": find_mxfp4,
    TORCHAO: find_torchao,
}
"""By ``quant_method``."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a model's tensors are: ``stored`` ones by stored name, ``stacks`` by the model's; those ``unused``."""

    stored: Mapping[str, StoredTensor]
    stacks: Mapping[str, StackedTensor]
    unused: Sequence[Unused]


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint is quantised. ``dequantize``: the dtype that its weights are unpacked to as they are read."""

    method: str
    config: Mapping[str, Any]
    dequantize: torch.dtype | None = None

    def place(self, model: Any, stored: Mapping[str, StoredTensor]) -> Placed:
        """What to read, once the model's modules hold packed what the checkpoint packs.

        Under ``dequantize`` the model stays as it is, and packed weights are tensors that are unpacked. Raises
        `CheckpointError` naming every weight that cannot be held packed.
        """
        found = FINDERS[self.method](self.config, stored, model)
        raise_findings(CheckpointError, found.wrong, summary=f"the checkpoint is not what {self.method} writes")
        if not found.weights:
            raise self._nothing_packed(stored)
        parts = {part.name for packed in found.weights.values() for part in packed.parts.values()}
        gone = found.used | {one.name for one in found.unused}
        if self.dequantize is not None:
            plain = {name: tensor for name, tensor in stored.items() if name not in parts | gone}
            made = {name: unpacked(name, packed, self.dequantize) for name, packed in found.weights.items()}
            return Placed({**plain, **made}, {}, found.unused)
        stacks = _hold(model, found)
        gone |= {tensor.name for stack in stacks.values() for tensor in stack.tensors}
        kept = parts - {tensor.name for stack in stacks.values() for tensor in stack.tensors}
        return Placed(
            {name: tensor for name, tensor in stored.items() if name in kept or name not in gone}, stacks, found.unused
        )

    def _nothing_packed(self, stored: Mapping[str, StoredTensor]) -> CheckpointError:
        """What is wrong where no weight is packed as the method packs them."""
        said = f"the configuration says that weights are quantised by {self.method!r}, but none is stored so"
        kinds = sorted({name.rpartition(".")[2] for name in scale_names(stored)})
        if not kinds:
            return CheckpointError(f"{said}\n  try: remove its quantization_config, if they are plain")
        return CheckpointError(
            f"{said}, as it is read: the files hold {', '.join(kinds)}, a layout that is not read\n"
            "  try: the unquantised checkpoint, or one laid out as docs/quantised.md says"
        )


def read_quantization(
    config: Any, dequantize: torch.dtype | None, files: Callable[[], Iterable[Path]] = tuple
) -> Quantization | None:
    """How the checkpoint of a configuration is quantised; None where it is not. Raises `CheckpointError` if unread.

    ``files``: gives those of its weights, whose headers say so where the configuration does not.
    """
    said = {key: getattr(config, key, None) for key in ("quantization_config", "compression_config")}
    key, given = next(((key, value) for key, value in said.items() if value), ("", None))
    if given is None:
        if is_by_torchao(files()):
            return Quantization(TORCHAO, {}, dequantize)
        if dequantize is not None:
            raise CheckpointError("the checkpoint is not quantised, so there is nothing to dequantise\n  try: dtype")
        return None
    found = whole_config(given.to_dict() if hasattr(given, "to_dict") else given, key)
    method = str(found.get("quant_method"))
    if method not in FINDERS:
        raise CheckpointError(
            f"the weights are quantised by {method!r}, which is not read\n"
            f"  try: the unquantised checkpoint, its GGUF, or one by {', '.join(FINDERS)}"
        )
    return Quantization(method, found, dequantize)


def _hold(model: Any, found: FoundPacked) -> dict[str, StackedTensor]:
    """Have the model's modules hold what is packed; the stacks among it, by the model's names."""
    from transformers.core_model_loading import dot_natural_key

    renaming, wrong = Renaming.of(model), []
    experts: dict[str, dict[str, list[str]]] = {}
    for stored in sorted(found.weights, key=dot_natural_key):
        packed = found.weights[stored]
        name, pattern = renaming.name(stored)
        parameter = renaming.wanted.get(name)
        if parameter is None:
            wrong.append(Finding(f"{stored!r} is packed, but the model has no such tensor"))
        elif pattern is not None:
            experts.setdefault(name, {}).setdefault(pattern, []).append(stored)
        elif tuple(parameter.shape) != packed.shape:
            wrong.append(Finding(f"{name!r} has shape {packed.shape}, the configuration says {tuple(parameter.shape)}"))
        else:
            hold_packed(model, name, packed)
    stacks: dict[str, StackedTensor] = {}
    for name, stored_by_pattern in experts.items():
        converter = renaming.by_pattern[next(iter(stored_by_pattern))]
        weights = {
            stored_by_pattern[pattern][0].split(".")[-2]: [found.weights[one] for one in stored_by_pattern[pattern]]
            for pattern in converter.source_patterns
            if pattern in stored_by_pattern
        }
        held = hold_experts(model, name, converter, weights)
        if isinstance(held, Finding):
            wrong.append(held)
        else:
            stacks |= held
    raise_findings(CheckpointError, wrong, summary="weights cannot be held packed")
    return stacks
