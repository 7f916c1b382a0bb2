"""Experts that a checkpoint packs one by one and the model keeps in one tensor: each part is held as one stack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.errors import Finding
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.quantized.weight import PackedWeight, hold_packed

_STACKS = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])
"""The operations of converters that lay experts along a first dim, and their projections along the next."""


@dataclass(frozen=True)
class StackedTensor(StoredTensor):
    """Stored tensors of one shape along a new first dim; read slice by slice. ``file``, ``name``: of the first."""

    tensors: tuple[StoredTensor, ...]

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the stack into ``out``."""
        for place, number in enumerate(range(*box[0].indices(len(self.tensors)))):
            self.tensors[number].copy(box[1:], out[place])

    def read(self) -> torch.Tensor:
        """The whole stack."""
        return torch.stack([one.read() for one in self.tensors])


def hold_experts(
    model: Any, name: str, converter: Any, experts: Mapping[str, Sequence[PackedWeight]]
) -> dict[str, StackedTensor] | Finding:
    """Put stacks of the experts' parts in the place of the parameter ``name``; what holds each, by the model's name.

    ``experts``: by the name of their projection, in the order of the ``converter`` that makes the plain tensor of them.
    A finding where it does something else, or where experts are packed differently.
    """
    every = [one for weights in experts.values() for one in weights]
    wanted = tuple(model.get_parameter(name).shape)
    rows = sum(weights[0].shape[0] for weights in experts.values())
    shape = (len(every) // len(experts), rows, every[0].shape[1])
    alike = all(_is_like(one, weights[0]) for weights in experts.values() for one in weights)
    operations = [type(one).__name__ for one in converter.operations]
    dims = [getattr(one, "dim", None) for one in converter.operations]
    in_order = not any(part.endswith("g_idx") for part in every[0].parts)
    if operations not in _STACKS or dims != [0, 1][: len(dims)] or not (alike and in_order):
        return Finding(
            f"the model makes {name!r} of {len(every)} packed weights that cannot be held as one stack",
            remedies=("--dequantize bfloat16 (dequantize=torch.bfloat16), which streams plain weights",),
        )
    if shape != wanted or {len(weights) for weights in experts.values()} != {shape[0]}:
        return Finding(f"{name!r} is packed with shape {shape}, the configuration says {wanted}")
    path, _, last = name.rpartition(".")
    names = {key: {part: f"{last}__{key}__{part}" for part in weights[0].parts} for key, weights in experts.items()}
    parts = {
        names[key][part]: _stack([one.parts[part] for one in weights])
        for key, weights in experts.items()
        for part in weights[0].parts
    }

    def unpack(held: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        made = [
            weights[0].unpack({part: held[own] for part, own in names[key].items()}, dtype)
            for key, weights in experts.items()
        ]
        return made[0] if len(made) == 1 else torch.cat(made, 1)

    hold_packed(model, name, PackedWeight(shape, parts, unpack))
    return {f"{path}.{own}": stack for own, stack in parts.items()}


def _is_like(one: PackedWeight, other: PackedWeight) -> bool:
    """Whether two weights are packed in the same way."""
    facts = [{part: (held.shape, held.dtype) for part, held in each.parts.items()} for each in (one, other)]
    return one.unpack == other.unpack and one.shape == other.shape and facts[0] == facts[1]


def _stack(tensors: Sequence[StoredTensor]) -> StackedTensor:
    first = tensors[0]
    return StackedTensor((len(tensors), *first.shape), first.file, first.name, first.dtype, tuple(tensors))
