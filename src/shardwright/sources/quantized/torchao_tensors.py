"""torchao: tensor subclasses taken apart, as its own support of safetensors writes them, and transformers by it.

A weight ``up.weight`` is stored as ``up._weight_qdata``, ``up._weight_scale`` and so on. What they are is said by the
weight's name in the header of the file: the subclass, and the block of values that share a scale.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding
from shardwright.layout.values import check_mapping
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused, header_text
from shardwright.sources.quantized.unpack import scaled
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight, Shape

METHOD = "torchao"

_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
NUMBERS = {"Float8Tensor": _FLOATS, "Int8Tensor": (torch.int8,), "IntxUnpackedToInt8Tensor": (torch.int8,)}
"""The subclasses that are read, and what their numbers may be stored as."""

_PLAIN = "Tensor"
_OTHERS = {
    "Int4OpaqueTensor": "4-bit integers packed for the vectors of one kind of CPU",
    "Int4PlainInt32Tensor": "4-bit integers packed for Intel's GPUs and Ascend's NPUs",
    "Int4PreshuffledTensor": "4-bit integers packed for tensor cores",
    "Int4Tensor": "4-bit integers packed for kernels of CUDA",
    "Int4TilePackedTo4dTensor": "4-bit integers packed for tensor cores",
}
"""Subclasses that are not read, and what they hold."""

_PARTS = ("qdata", "scale", "zero_point", "act_pre_scale")
"""What the names of a weight's tensors end in; the first two are always there."""
_OF_ACTIVATIONS = ("act_quant_scale", "act_quant_zero_point")
_QDATA = re.compile(r"((?:.*\.)?)_([^.]+)_qdata")


@dataclass(frozen=True, slots=True)
class UnpackTorchao:
    """Unpacks a weight. ``stem``: what the names of its parts begin with."""

    stem: str
    block: tuple[int, int]

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``; what multiplies activations before they meet it multiplies its columns."""
        numbers, scale = parts[f"{self.stem}qdata"], parts[f"{self.stem}scale"]
        zeros, before = parts.get(f"{self.stem}zero_point"), parts.get(f"{self.stem}act_pre_scale")
        weight = scaled(numbers, scale, zeros, self.block, dtype)
        return weight if before is None else weight * before.reshape(-1).to(dtype)


def is_by_torchao(files: Iterable[Path]) -> bool:
    """Whether the header of a file describes subclasses of torchao's, whatever the configuration says."""
    known = {*NUMBERS, *_OTHERS}
    return any(said["_type"] in known for file in files for _, said in _descriptions(file))


def find_torchao(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: Any) -> FoundPacked:
    """The weights that torchao quantised; raises `CheckpointError` for headers that are not as torchao writes them."""
    found, described = FoundPacked(), set[str]()
    for file in sorted({tensor.file for tensor in stored.values()}):
        for name, said in _descriptions(file):
            path, _, last = name.rpartition(".")
            own = {end: f"{path}._{last}_{end}" for end in (*_PARTS, *_OF_ACTIVATIONS)}
            own = {end: stored[key] for end, key in own.items() if key in stored}
            # A header may describe what other files hold, and what a tied weight left out.
            if own and name not in described:
                described.add(name)
                where, example = f"{file.name}: the header's {name!r}", '{"block_size": [1, 64]}'
                check_mapping(said.get("_data"), f"{where}._data", example, error=CheckpointError)
                _add(found, name, said, own, stored)
    for name in stored:
        match = _QDATA.fullmatch(name)
        if match and f"{match[1]}{match[2]}" not in described:
            found.wrong.append(
                Finding(
                    f"{name!r} is stored, but no header of a file says what it is",
                    remedies=("the files as torchao wrote them: their headers have a text for each weight",),
                )
            )
    return found


def _descriptions(file: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """What the header of a file says of each weight that is not plain, by its name."""
    for name, text in header_text(file).items():
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            # Other texts of other writers.
            continue
        if isinstance(said, dict) and isinstance(said.get("_type"), str) and said["_type"] != _PLAIN:
            yield name, said


def _add(
    found: FoundPacked,
    name: str,
    said: Mapping[str, Any],
    own: Mapping[str, StoredTensor],
    stored: Mapping[str, StoredTensor],
) -> None:
    """Add a weight, or what is wrong with it. ``own``: its tensors, by what their names end in."""
    path, _, last = name.rpartition(".")
    kind, names = said["_type"], said.get("_tensor_data_names")
    more = [str(one) for one in names if str(one) not in own] if isinstance(names, list) else []
    if kind not in NUMBERS or any(one not in (*_PARTS, *_OF_ACTIVATIONS) for one in more):
        held = _OTHERS.get(kind, f"with the parts {', '.join(map(str, names or own))}")
        found.wrong.append(
            Finding(
                f"{name!r} is a {kind} of torchao's, {held}, which is not read",
                remedies=(f"a checkpoint of {', '.join(NUMBERS)}, or the unquantised one",),
            )
        )
        return
    for end in _OF_ACTIVATIONS:
        if end in own:
            found.unused.append(Unused(own[end].name, own[end].file.name, "activations are not quantised"))
    optional = [end for end in _PARTS[2:] if end in own or end in more]
    parts = found.take(path, [f"_{last}_{end}" for end in (*_PARTS[:2], *optional)], stored)
    if not parts:
        return
    block = _block(found, name, said, own)
    if block is None:
        return
    if "zero_point" in own and not own["zero_point"].read().any():
        # Symmetric weights have a zero point of 0 each, which need not be subtracted.
        found.used.add(parts.pop(f"_{last}_zero_point").name)
    unpack, shape = UnpackTorchao(f"_{last}_", (block[-2], block[-1])), own["qdata"].shape
    is_by_row = len(parts) == len(shape) == 2 and block[-1] == shape[-1] and block[0] in (1, shape[0])
    numbers, scale, *_ = parts
    found.weights[name] = PackedWeight(shape, parts, unpack, (numbers, scale) if is_by_row else None)


def _block(
    found: FoundPacked, name: str, said: Mapping[str, Any], own: Mapping[str, StoredTensor]
) -> Sequence[int] | None:
    """The values that share a scale, dim by dim; None, and findings, where parts do not fit each other."""
    kind, shape, scales = said["_type"], own["qdata"].shape, own["scale"].shape
    floats = [own[end] for end in ("scale", "act_pre_scale") if end in own]
    odd = [one for one in floats if not one.dtype.is_floating_point]
    odd += [] if own["qdata"].dtype in NUMBERS[kind] else [own["qdata"]]
    for one in odd:
        found.wrong.append(Finding(f"{one.name!r} in {one.file.name} holds {one.dtype}, which no {kind} does"))
    block = _divided(shape, scales)
    # Of float8 torchao reads the shape of the scales alone.
    wanted = None if kind == "Float8Tensor" else said["_data"].get("block_size")
    if block is None or wanted not in (None, block):
        blocks = "" if wanted is None else f", and the header says blocks of {wanted}"
        found.wrong.append(Finding(f"{name!r} of shape {shape} has scales of shape {scales}{blocks}"))
        return None
    columns = shape[-1]
    shapes = {"zero_point": [scales], "act_pre_scale": [(columns,), (1, columns), (1,), ()]}
    more = {end: one for end, one in own.items() if end in shapes}
    fits = found.fits(f"{name!r} of shape {shape} with scales of shape {scales}", more, shapes)
    return block if fits and not odd else None


def _divided(shape: Shape, scales: Shape) -> list[int] | None:
    """How long blocks are along every dim; None where scales do not divide a matrix, or a stack of them."""
    if not scales and len(shape) == 2:
        return list(shape)
    if len(shape) < 2 or len(shape) != len(scales) or 0 in shape or 0 in scales:
        return None
    if any(size % count for size, count in zip(shape, scales, strict=True)):
        return None
    if any(count not in (1, size) for size, count in zip(shape[:-2], scales[:-2], strict=True)):
        # Matrices of a stack share scales all or not at all.
        return None
    return [size // count for size, count in zip(shape, scales, strict=True)]
