"""A weight as a checkpoint packs it, read as it is or unpacked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from shardwright.errors import Finding
from shardwright.program.torch_private import tables_of
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused

Shape: TypeAlias = tuple[int, ...]

Unpack: TypeAlias = Callable[[Mapping[str, torch.Tensor], torch.dtype], torch.Tensor]
"""The weight of its parts, by the last token of their names, as a dtype; in plain operators."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """One weight of a checkpoint: its ``shape`` once unpacked, and its stored ``parts`` by the last token of a name.

    ``by_row``: the parts that are its numbers, 8 bits each, and one scale for every row or for all, where the weight is
    their product.
    """

    shape: Shape
    parts: Mapping[str, StoredTensor]
    unpack: Unpack
    by_row: tuple[str, str] | None = None


@dataclass
class FoundPacked:
    """What a finder finds: ``weights`` by the stored name that each would have plain; ``used``: further stored tensors
    that were read to find them; ``unused``: those that nothing reads, and why; ``wrong``: what cannot be read.
    """

    weights: dict[str, PackedWeight] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    unused: list[Unused] = field(default_factory=list)
    wrong: list[Finding] = field(default_factory=list)

    def take(
        self, path: str, names: Sequence[str], stored: Mapping[str, StoredTensor], *, words: Sequence[str] = ()
    ) -> dict[str, StoredTensor]:
        """The stored tensors of a module by these last tokens; none, and a finding, where one is missing.

        ``words``: those of them that have to be matrices of integers.
        """
        lacking = [last for last in names if f"{path}.{last}" not in stored]
        if lacking:
            self.wrong.append(
                Finding(f"the checkpoint lacks '{path}.{lacking[0]}', which goes with its {' and '.join(names)}")
            )
            return {}
        parts = {last: stored[f"{path}.{last}"] for last in names}
        sound = [self.holds_integers(parts[last], 2) for last in words]
        return parts if all(sound) else {}

    def holds_integers(self, part: StoredTensor, num_dims: int) -> bool:
        """Whether a tensor holds integers along so many dims; a finding where not."""
        if not self.has_dims(part, num_dims):
            return False
        fits = part.dtype in (torch.int32, torch.int64)
        if not fits:
            self.wrong.append(Finding(f"{part.name!r} in {part.file.name} holds {part.dtype}, not int32 or int64"))
        return fits

    def has_dims(self, part: StoredTensor, num_dims: int) -> bool:
        """Whether a tensor has so many dims, none of size 0; a finding where not."""
        fits = len(part.shape) == num_dims and 0 not in part.shape
        if not fits:
            dims = "one dim" if num_dims == 1 else f"{num_dims} dims"
            self.wrong.append(
                Finding(f"{part.name!r} in {part.file.name} has the shape {part.shape}, not {dims} that hold something")
            )
        return fits

    def fits(self, what: str, parts: Mapping[str, StoredTensor], wanted: Mapping[str, Sequence[Shape]]) -> bool:
        """Whether parts have one of the shapes wanted of them; a finding about ``what`` where not."""
        odd = [
            f"{last} is {part.shape}, not {' or '.join(map(str, wanted[last]))}"
            for last, part in parts.items()
            if part.shape not in wanted[last]
        ]
        if odd:
            self.wrong.append(Finding(f"{what}: {', '.join(odd)}"))
        return not odd

    def in_order(self, name: str, groups: torch.Tensor, size: int, num_groups: int) -> bool:
        """Whether ``groups``, the group of each column, says that columns lie group by group, ``size`` in each.

        A finding about the stored ``name`` where it says a group that there is not.
        """
        low, high = (int(one) for one in groups.aminmax())
        if low < 0 or high >= num_groups:
            self.wrong.append(Finding(f"{name!r} names groups {low} to {high}, but there are {num_groups}"))
        return torch.equal(groups.long(), torch.arange(groups.numel()) // max(size, 1))


@dataclass(frozen=True)
class UnpackedTensor(StoredTensor):
    """A weight that is unpacked as it is read. ``file``: that of its numbers."""

    packed: PackedWeight

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the weight into ``out``; the whole of it is unpacked for that."""
        out.copy_(self.read()[box])

    def read(self) -> torch.Tensor:
        """The whole weight."""
        return self.packed.unpack({last: part.read() for last, part in self.packed.parts.items()}, self.dtype)


def unpacked(name: str, packed: PackedWeight, dtype: torch.dtype) -> UnpackedTensor:
    """A packed weight as a plain tensor of ``dtype``."""
    return UnpackedTensor(packed.shape, next(iter(packed.parts.values())).file, name, dtype, packed)


def hold_packed(model: Any, name: str, packed: PackedWeight) -> None:
    """Put the parts of the parameter ``name`` of a model in its place, as shapes only.

    Its module keeps its code and its class's name: only what it finds under the parameter's name is made anew.
    """
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    plain: Any = tables_of(module).parameters.pop(last)
    for part, stored in packed.parts.items():
        empty = plain.data.new_empty(stored.shape, dtype=stored.dtype)
        module.register_parameter(part, torch.nn.Parameter(empty, requires_grad=False))

    def unpack(self: torch.nn.Module) -> torch.Tensor:
        parts = {part: tables_of(self).parameters[part] for part in packed.parts}
        return packed.unpack(parts, plain.dtype)  # type: ignore[bad-argument-type]

    kind = type(module)
    held: dict[str, Any] = {last: property(unpack), "__module__": kind.__module__}
    if packed.by_row and kind.forward is torch.nn.Linear.forward and plain.dtype in _WIDE:
        held["forward"] = _scaled_after(*packed.by_row, plain.dtype)
    module.__class__ = type(kind.__name__, (kind,), held)


_WIDE = (torch.bfloat16, torch.float32, torch.float64)
"""Dtypes with room for sums of unscaled numbers and for small scales, which float16 has not."""


def _scaled_after(numbers: str, scale: str, dtype: torch.dtype) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """A linear layer's forward that scales what the matmul gives rather than the weight.

    That is the same, and how Inductor finds a matmul that reads 8 bits a number: a scaled weight it writes to memory.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        held: Any = tables_of(self).parameters
        given = torch.nn.functional.linear(x, held[numbers].to(dtype)) * held[scale].reshape(-1).to(dtype)
        return given if self.bias is None else given + self.bias

    return forward
