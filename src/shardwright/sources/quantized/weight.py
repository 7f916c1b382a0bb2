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
    ``rows_alone``: some rows of all parts unpack to these rows of the weight.
    """

    shape: Shape
    parts: Mapping[str, StoredTensor]
    unpack: Unpack
    by_row: tuple[str, str] | None = None
    rows_alone: bool = False


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
    """Put the parts of the parameter ``name`` of a model in its place, as shapes only; where it is tied, in all places.

    Its module keeps its code and its class's name: only what it finds under the parameter's name is made anew, and
    where that is looked up in, only the rows that are.
    """
    path, _, last = name.rpartition(".")
    plain: Any = tables_of(model.get_submodule(path)).parameters[last]
    parts = {
        part: torch.nn.Parameter(plain.data.new_empty(stored.shape, dtype=stored.dtype), requires_grad=False)
        for part, stored in packed.parts.items()
    }
    for tied, parameter in list(model.named_parameters(remove_duplicate=False)):
        if parameter is plain:
            path, _, last = tied.rpartition(".")
            _hold(model.get_submodule(path), last, parts, packed, plain.dtype)


def _hold(
    module: torch.nn.Module,
    last: str,
    parts: Mapping[str, torch.nn.Parameter],
    packed: PackedWeight,
    dtype: torch.dtype,
) -> None:
    if last not in tables_of(module).parameters:
        # Another name of the same module.
        return
    del tables_of(module).parameters[last]
    for part, parameter in parts.items():
        module.register_parameter(part, parameter)

    def held(self: torch.nn.Module) -> dict[str, Any]:
        return {part: tables_of(self).parameters[part] for part in packed.parts}

    def look_up(self: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        found = {
            part: torch.nn.functional.embedding(rows, blocks.flatten(1)).unflatten(-1, blocks.shape[1:])
            for part, blocks in held(self).items()
        }
        return packed.unpack(found, dtype)

    kind = type(module)
    bases: tuple[type, ...] = (kind,)
    if isinstance(module, torch.nn.Embedding) and packed.rows_alone and module.max_norm is None:
        # Classes of embeddings that scale what they look up call this one's forward.
        own = type("Embedding", (torch.nn.Embedding,), {"forward": look_up})
        bases = (own,) if kind is torch.nn.Embedding else (kind, own)
    made: dict[str, Any] = {
        last: property(lambda self: packed.unpack(held(self), dtype)),
        "__module__": kind.__module__,
    }
    if packed.by_row and kind.forward is torch.nn.Linear.forward and dtype in _WIDE:
        made["forward"] = _scaled_after(*packed.by_row, dtype)
    module.__class__ = type(kind.__name__, bases, made)


_WIDE = (torch.bfloat16, torch.float32, torch.float64)
"""Dtypes with room for sums of unscaled numbers and for small scales, which float16 has not."""


def _scaled_after(numbers: str, scale: str, dtype: torch.dtype) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """A linear layer's forward that scales what the matmul gives rather than the weight.

    That is the same, and how Inductor finds a matmul that reads 8 bits a number: a scaled weight it writes to memory.
    Its kernel takes a number a row, one after the other in memory. So one scale for all rows is repeated, and scales
    are cast before they are laid in a row: a view is what makes Inductor write a cast to memory.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        held: Any = tables_of(self).parameters
        by_row = held[scale].reshape(-1, 1).to(dtype)
        if by_row.numel() == 1:
            by_row = by_row.repeat(held[numbers].shape[0], 1)
        given = torch.nn.functional.linear(x, held[numbers].to(dtype)) * by_row.reshape(-1)
        return given if self.bias is None else given + self.bias

    return forward
