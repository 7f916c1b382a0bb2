"""What a package for training keeps beside its weights: an optimiser's state, and the stream of random numbers.

A tensor of a parameter's shape (a moment) lies as that parameter does: each rank's file holds the rank's piece of it,
and it is read and cut anew as weights are. All else is a number, the same on every rank, and stands in the manifest.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from shardwright.errors import PackageError


class MomentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that follows a parameter: which one, the optimiser's name for it, its dtype."""

    parameter: str
    key: str
    dtype: str

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.parameter}:{self.key}"


class GroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the optimiser's groups: the names of its parameters, and its options (``lr``) as `to_json` writes them."""

    parameters: list[str]
    options: dict[str, Any]


class TrainingEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An optimiser's state. ``files``: of moments, by place in the mesh.

    ``numbers``: parameter → the optimiser's name for it → a number, as `to_json` writes it. ``streams``: the state of
    the stream of random numbers in base 64, by type of device; empty where nothing is drawn.
    ``kind``: the optimiser's class; absent in packages that were written before this was kept.
    """

    files: list[str]
    moments: list[MomentEntry]
    numbers: dict[str, dict[str, Any]]
    groups: list[GroupEntry]
    streams: dict[str, str] = {}
    kind: str = ""

    def parameters(self) -> list[str]:
        """The names of all parameters that are stepped."""
        return [name for group in self.groups for name in group.parameters]


def to_json(value: Any) -> Any:
    """A number, a flag, text, None, a tensor without dims, or a list or tuple of these, as JSON holds it exactly.

    Raises `ValueError` for anything else.
    """
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if type(value) is float:
        # JSON has no other numbers than finite ones.
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (list, tuple)):
        inside = [to_json(one) for one in value]
        return {"tuple": inside} if isinstance(value, tuple) else inside
    if isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_complex() and not value.is_meta:
        return {"tensor": to_json(value.item()), "dtype": str(value.dtype).removeprefix("torch.")}
    raise ValueError(f"{type(value).__name__} is not kept")


def from_json(written: Any) -> Any:
    """The value that `to_json` wrote; raises `PackageError` for what it does not write."""
    match written:
        case None | bool() | str() | int() | float():
            return written
        case list():
            return [from_json(one) for one in written]
        case {"tuple": list(inside), **rest} if not rest:
            return tuple(from_json(one) for one in inside)
        case {"float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
            return float(text)
        case {"tensor": value, "dtype": str(dtype), **rest} if not rest and is_dtype(dtype):
            number = from_json(value)
            if isinstance(number, (bool, int, float)):
                return torch.tensor(number, dtype=getattr(torch, dtype))
    raise PackageError(f"the optimiser's state holds {written!r}, which is no number that a package keeps")


def is_dtype(name: str) -> bool:
    """Whether torch has a dtype of this name."""
    return isinstance(getattr(torch, name, None), torch.dtype)


def check_training(
    training: TrainingEntry, tensors: Mapping[str, Any], sizes: Mapping[str, int], num_ranks: int, path: Path
) -> None:
    """Check the entry against the rest of the manifest ``path``: its tensors by name, its files' sizes by name."""
    stepped = training.parameters()
    known = {name for name, entry in tensors.items() if entry.kind == "parameter" and not entry.alias_of}
    named = [*stepped, *training.numbers, *(moment.parameter for moment in training.moments)]
    names = [moment.name for moment in training.moments]
    missing = [name for name in training.files if name not in sizes]
    odd = sorted({name for name in named if name not in known} | {name for name in named if name not in stepped})
    if odd or missing or len(training.files) != num_ranks or _twice(names) or _twice(stepped):
        raise PackageError(
            f"{path} contradicts itself: it keeps the state of an optimiser of {odd[:5] or _twice(stepped + names)} "
            f"in {len(training.files)} files, and lacks {missing}"
        )
    room = sum(sizes[name] for name in training.files)
    for moment in training.moments:
        shape = tensors[moment.parameter].shape
        if not is_dtype(moment.dtype) or math.prod(shape) * getattr(torch, moment.dtype).itemsize > room:
            raise PackageError(f"{path}: {moment.name!r} of {moment.dtype} and shape {shape} is not in its files")


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
