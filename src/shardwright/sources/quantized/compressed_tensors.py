"""compressed-tensors: what llm-compressor writes. Integers packed in words of 32 bits or plain, and 8-bit floats."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused
from shardwright.sources.quantized.unpack import WORD_BITS, scaled, unpack_words
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight, Shape

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
"""What is read of the formats that the library writes."""

_ACTIVATIONS = re.compile(r"(input|output|[qkv])_(scale|zero_point|global_scale)$")


@dataclass(frozen=True, slots=True)
class WeightScheme:
    """How the weights of some modules are quantised: ``block``: the rows and columns that share a scale; 0: all."""

    bits: int
    is_symmetric: bool
    block: tuple[int, int]


@dataclass(frozen=True, slots=True)
class UnpackCompressed:
    """Unpacks a weight of ``shape``."""

    shape: tuple[int, int]
    bits: int
    block: tuple[int, int]

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``."""
        scale, zeros, groups = parts["weight_scale"], parts.get("weight_zero_point"), parts.get("weight_g_idx")
        numbers = parts.get("weight")
        if numbers is None:
            numbers = self._signed(parts["weight_packed"], self.shape[1], -1)
            if zeros is not None and zeros.dtype == torch.int32 and self.block[0]:
                # Zero points are packed along rows, weights along columns.
                zeros = self._signed(zeros, -(-self.shape[0] // self.block[0]), -2)
        return scaled(numbers, scale, zeros, self.block, dtype, groups)

    def _signed(self, words: torch.Tensor, size: int, dim: int) -> torch.Tensor:
        return unpack_words(words, self.bits, size, dim) - 2 ** (self.bits - 1)


def find_compressed(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: Any) -> FoundPacked:
    """The weights that compressed-tensors packed; raises `CheckpointError` for a format that is not read."""
    _check_transforms(config)
    schemes = {target: scheme for targets, scheme in _schemes(config) for target in targets}
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    found = FoundPacked()
    for name in stored:
        path, _, last = name.rpartition(".")
        kind = kinds.get(path, "Linear")
        if last == "weight_scale":
            target = _closest(schemes, path, kind)
            if target is None:
                found.wrong.append(Finding(f"{name!r} is stored, but the configuration quantises no such module"))
            else:
                _add(found, path, schemes[target], stored)
        elif last in ("weight_shape", "weight_g_idx"):
            found.used.add(name)
        elif _ACTIVATIONS.search(last):
            found.unused.append(Unused(name, stored[name].file.name, "activations are not quantised"))
    return found


def _check_transforms(config: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for what is done to weights beside rounding them."""
    rotated = any((config.get("transform_config") or {}).values())
    sparse = str((config.get("sparsity_config") or {}).get("format") or "dense")
    if rotated or sparse != "dense":
        what = "transform_config, rotations" if rotated else f"sparsity_config, weights stored as {sparse!r}"
        raise CheckpointError(
            f"the quantization_config has a {what}, which is not read\n"
            "  try: a checkpoint that compressed-tensors wrote without, or the unquantised one"
        )


def _closest(targets: Iterable[str], path: str, kind: str) -> str | None:
    """The target that decides about a module: its name, then the first pattern of it in order, then its class."""

    def fits(target: str) -> int:
        if target.startswith("re:"):
            return 1 if re.match(target.removeprefix("re:"), path) else 3
        return 0 if target == path else 2 if target == kind else 3

    rank, target = min(((fits(target), target) for target in targets), default=(3, ""))
    return target if rank < 3 else None


def _schemes(config: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], WeightScheme]]:
    """What modules each scheme is for, and it."""
    for name, group in config.get("config_groups", {}).items():
        weights, chosen = group.get("weights"), group.get("format") or config.get("format")
        if weights is None:
            continue
        if chosen not in FORMATS:
            raise CheckpointError(
                f"compressed-tensors stores the weights of {name!r} as {chosen!r}, which is not read\n"
                f"  try: the unquantised checkpoint, or one of the formats {', '.join(FORMATS)}"
            )
        blocks = {
            "tensor": (0, 0),
            "channel": (1, 0),
            "group": (1, weights.get("group_size")),
            "block": tuple(weights.get("block_structure") or ()),
        }
        block = blocks.get(weights.get("strategy"), ())
        if len(block) != 2 or None in block:
            raise CheckpointError(
                f"{name!r} of the quantisation shares scales by {weights.get('strategy')!r}, which is not read\n"
                f"  try: the unquantised checkpoint, or one of the strategies {', '.join(blocks)}"
            )
        yield group["targets"], WeightScheme(weights["num_bits"], weights.get("symmetric", True), block)


def _add(found: FoundPacked, path: str, scheme: WeightScheme, stored: Mapping[str, StoredTensor]) -> None:
    """Add the weight of a module, or what is wrong with it."""
    names = ["weight_packed" if f"{path}.weight_packed" in stored else "weight", "weight_scale"]
    # Some writers store the zero points of symmetric weights too.
    names += ["weight_zero_point"] if not scheme.is_symmetric or f"{path}.weight_zero_point" in stored else []
    parts = found.take(path, names, stored)
    if not parts:
        return
    numbers = parts[names[0]]
    if numbers.dtype.is_floating_point and numbers.dtype.itemsize > 1:
        found.wrong.append(
            Finding(
                f"'{path}.weight' is stored as {numbers.dtype}, not quantised, beside a scale",
                remedies=("save it compressed (save_compressed=True)",),
            )
        )
        return
    shape = (numbers.shape[0], _num_columns(path, numbers, stored))
    ordered = stored.get(f"{path}.weight_g_idx")
    if ordered is not None and (ordered.shape != shape[1:] or _is_reordered(found, ordered, shape[1], scheme)):
        parts["weight_g_idx"] = ordered
    wanted = _shapes(shape, scheme, parts)
    if found.fits(f"{path!r} of shape {shape}, scales for {scheme.block}", parts, wanted):
        unpack = UnpackCompressed(shape, scheme.bits, scheme.block)
        found.weights[f"{path}.weight"] = PackedWeight(shape, parts, unpack)


def _is_reordered(found: FoundPacked, ordered: StoredTensor, columns: int, scheme: WeightScheme) -> bool:
    groups, size = ordered.read(), scheme.block[1] or columns
    # A group of -1 means that none was written, as compressed-tensors reads it.
    return not bool((groups == -1).any()) and not found.in_order(ordered.name, groups, size, -(-columns // size))


def _num_columns(path: str, numbers: StoredTensor, stored: Mapping[str, StoredTensor]) -> int:
    shape = stored.get(f"{path}.weight_shape")
    if numbers.name.endswith("weight_packed") and shape is not None:
        return int(shape.read()[-1])
    return numbers.shape[-1]


def _shapes(
    shape: tuple[int, int], scheme: WeightScheme, parts: Mapping[str, StoredTensor]
) -> dict[str, tuple[Shape, ...]]:
    """The shapes that each part may have."""
    rows, columns = shape
    grid = tuple(-(-size // block) if block else 1 for size, block in zip(shape, scheme.block, strict=True))
    flat = (grid[:1], ()) if grid == (1, 1) else (grid[:1],) if grid[1] == 1 else ()
    zeros = parts.get("weight_zero_point")
    packs_zeros = "weight_packed" in parts and scheme.block[0] and zeros is not None and zeros.dtype == torch.int32
    return {
        "weight": (shape,),
        "weight_packed": ((rows, _num_words(columns, scheme)),),
        "weight_scale": (grid, *flat),
        "weight_zero_point": ((_num_words(grid[0], scheme), grid[1]),) if packs_zeros else (grid, *flat),
        "weight_g_idx": ((columns,),),
    }


def _num_words(size: int, scheme: WeightScheme) -> int:
    return -(-size * scheme.bits // WORD_BITS)
