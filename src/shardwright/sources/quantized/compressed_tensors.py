"""compressed-tensors: what llm-compressor writes. Integers packed in words of 32 bits or plain, and 8-bit floats."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding, first_line, raise_findings
from shardwright.layout.values import check_flag, check_list, check_mapping
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused
from shardwright.sources.quantized.config_values import TOP, block_sizes, section, whole_number
from shardwright.sources.quantized.unpack import WORD_BITS, scaled, unpack_words
from shardwright.sources.quantized.weight import FoundPacked, PackedWeight, Shape

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
"""What is read of the formats that the library writes."""

MOST_BITS = 8
"""Of a number packed in words: the library packs no wider ones."""

STRATEGIES = ("tensor", "channel", "group", "block")
"""What weights share a scale."""

_WEIGHTS = '{"num_bits": 4, "strategy": "channel"}'
_TARGETS = '["Linear"]'
_GROUP = f'{{"targets": {_TARGETS}, "weights": {_WEIGHTS}}}'
_GROUPS = f'{{"group_0": {_GROUP}}}'
"""What the configuration may say, for messages."""

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
    patterns = _patterns(schemes)
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    found = FoundPacked()
    for name in stored:
        path, _, last = name.rpartition(".")
        kind = kinds.get(path, "Linear")
        if last == "weight_scale":
            target = _closest(schemes, patterns, path, kind)
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
    rotated = any(section(config, "transform_config", "{}").values())
    sparse = str(section(config, "sparsity_config", '{"format": "dense"}').get("format") or "dense")
    if rotated or sparse != "dense":
        what = "transform_config, rotations" if rotated else f"sparsity_config, weights stored as {sparse!r}"
        raise CheckpointError(
            f"the quantization_config has a {what}, which is not read\n"
            "  try: a checkpoint that compressed-tensors wrote without, or the unquantised one"
        )


def _patterns(targets: Iterable[str]) -> dict[str, re.Pattern[str]]:
    """Those of the targets that are patterns, compiled; raises `CheckpointError` with all that cannot be."""
    found, wrong = {}, []
    for target in targets:
        if target.startswith("re:"):
            try:
                found[target] = re.compile(target.removeprefix("re:"))
            except (re.error, OverflowError, RecursionError) as error:
                wrong.append(
                    Finding(
                        f"the target {target!r} is no regular expression: {first_line(error)}",
                        where=f"{TOP}.config_groups",
                        remedies=("the name of a module or class, or a pattern of Python's re after 're:'",),
                    )
                )
    raise_findings(CheckpointError, wrong, summary="the quantization_config names modules by odd patterns")
    return found


def _closest(targets: Iterable[str], patterns: Mapping[str, re.Pattern[str]], path: str, kind: str) -> str | None:
    """The target that decides about a module: its name, then the first pattern of it in order, then its class."""

    def fits(target: str) -> int:
        if target in patterns:
            return 1 if patterns[target].match(path) else 3
        return 0 if target == path else 2 if target == kind else 3

    rank, target = min(((fits(target), target) for target in targets), default=(3, ""))
    return target if rank < 3 else None


def _schemes(config: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], WeightScheme]]:
    """What modules each scheme is for, and it."""
    for name, given in section(config, "config_groups", _GROUPS).items():
        where = f"{TOP}.config_groups[{name!r}]"
        group = check_mapping(given, where, _GROUP, error=CheckpointError)
        chosen = group.get("format") or config.get("format")
        if group.get("weights") is None:
            continue
        if chosen not in FORMATS:
            raise CheckpointError(
                f"compressed-tensors stores the weights of {name!r} as {chosen!r}, which is not read\n"
                f"  try: the unquantised checkpoint, or one of the formats {', '.join(FORMATS)}"
            )
        yield _targets(group, where), _scheme(name, section(group, "weights", _WEIGHTS, where=where), where)


def _targets(group: Mapping[str, Any], where: str) -> Sequence[str]:
    """The modules that a group names."""
    targets = check_list(group.get("targets"), f"{where}.targets", _TARGETS, error=CheckpointError)
    odd = [target for target in targets if not isinstance(target, str)]
    if odd:
        raise CheckpointError(f"{where}.targets must be strings such as {_TARGETS}, got {odd[0]!r}")
    return targets


def _scheme(name: str, weights: Mapping[str, Any], group: str) -> WeightScheme:
    """How the weights of the group ``name`` are quantised."""
    where, strategy = f"{group}.weights", weights.get("strategy")
    if strategy not in STRATEGIES:
        raise CheckpointError(
            f"{name!r} of the quantisation shares scales by {strategy!r}, which is not read\n"
            f"  try: the unquantised checkpoint, or one of the strategies {', '.join(STRATEGIES)}"
        )
    if strategy == "block":
        block = block_sizes(weights, "block_structure", where=where)
    elif strategy == "group":
        block = (1, whole_number(weights, ("group_size",), where=where))
    else:
        block = (0, 0) if strategy == "tensor" else (1, 0)
    is_symmetric = check_flag(weights.get("symmetric", True), f"{where}.symmetric", error=CheckpointError)
    return WeightScheme(whole_number(weights, ("num_bits",), where=where), is_symmetric, block)


def _add(found: FoundPacked, path: str, scheme: WeightScheme, stored: Mapping[str, StoredTensor]) -> None:
    """Add the weight of a module, or what is wrong with it."""
    names = ["weight_packed" if f"{path}.weight_packed" in stored else "weight", "weight_scale"]
    is_packed = names[0] == "weight_packed"
    # Some writers store the zero points of symmetric weights too.
    names += ["weight_zero_point"] if not scheme.is_symmetric or f"{path}.weight_zero_point" in stored else []
    parts = found.take(path, names, stored, words=names[:1] if is_packed else ())
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
    if is_packed and scheme.bits > MOST_BITS:
        found.wrong.append(
            Finding(f"{numbers.name!r} has {scheme.bits} bits a number; at most {MOST_BITS} are packed in words")
        )
        return
    columns = _num_columns(found, path, numbers, stored) if found.has_dims(numbers, 2) else None
    if columns is None:
        return
    shape = (numbers.shape[0], columns)
    ordered = stored.get(f"{path}.weight_g_idx")
    if ordered is not None and ordered.shape == shape[1:] and not found.holds_integers(ordered, 1):
        return
    if ordered is not None and (ordered.shape != shape[1:] or _is_reordered(found, ordered, shape[1], scheme)):
        parts["weight_g_idx"] = ordered
    wanted = _shapes(shape, scheme, parts)
    if found.fits(f"{path!r} of shape {shape}, scales for {scheme.block}", parts, wanted):
        unpack = UnpackCompressed(shape, scheme.bits, scheme.block)
        is_plain = list(parts) == ["weight", "weight_scale"] and numbers.dtype.itemsize == 1
        by_row = ("weight", "weight_scale") if is_plain and scheme.block in ((0, 0), (1, 0)) else None
        found.weights[f"{path}.weight"] = PackedWeight(shape, parts, unpack, by_row)


def _is_reordered(found: FoundPacked, ordered: StoredTensor, columns: int, scheme: WeightScheme) -> bool:
    groups, size = ordered.read(), scheme.block[1] or columns
    # A group of -1 means that none was written, as compressed-tensors reads it.
    return not bool((groups == -1).any()) and not found.in_order(ordered.name, groups, size, -(-columns // size))


def _num_columns(
    found: FoundPacked, path: str, numbers: StoredTensor, stored: Mapping[str, StoredTensor]
) -> int | None:
    """The columns of a weight once unpacked; None, and a finding, where what is stored says none."""
    shape = stored.get(f"{path}.weight_shape")
    if not numbers.name.endswith("weight_packed") or shape is None:
        return numbers.shape[-1]
    if not found.holds_integers(shape, 1):
        return None
    columns = int(shape.read()[-1])
    if columns < 1:
        found.wrong.append(Finding(f"{shape.name!r} in {shape.file.name} says that there are {columns} columns"))
        return None
    return columns


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
