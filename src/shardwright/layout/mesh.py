"""The mesh: named axes of ranks, and rank ↔ coordinate."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.layout.values import is_count

Coordinates = tuple[int, ...]
"""Where a rank is on the first mesh axes: a number on each."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """Named axes of ranks, row-major: the last axis varies fastest.

    ``unions``: (name, axes) for axes that were one and are compiled one after the other; neighbours, in order.
    ``ranks``: the processes' own rank at each place, where that is not 0, 1, … (see `place`). Everything else counts
    places.

    >>> Mesh.of({"dp": 2, "tp": 4}).coordinate(6)
    {'dp': 1, 'tp': 2}
    """

    axes: tuple[tuple[str, int], ...]
    unions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ranks: tuple[int, ...] = ()

    @staticmethod
    def of(mesh: Any) -> "Mesh":
        """A mesh from an int (one axis, ``"tp"``), a dict of axis sizes, a torch ``DeviceMesh``, or a `Mesh`.

        A ``DeviceMesh`` keeps its rank numbers, which must rise along every axis.
        """
        if isinstance(mesh, Mesh):
            return mesh
        if isinstance(mesh, int) and not isinstance(mesh, bool):
            return Mesh._checked({"tp": mesh})
        if isinstance(mesh, Mapping):
            return Mesh._checked(mesh)
        names, shape = getattr(mesh, "mesh_dim_names", None), getattr(mesh, "shape", None)
        if shape is None:
            raise ShardwrightError(
                f"mesh: expected an int, a dict of axis sizes or a DeviceMesh, got {mesh!r}\n"
                '  try: mesh=4, or mesh={"dp": 2, "tp": 4}'
            )
        if names is None:
            names = ("tp",) if len(shape) == 1 else tuple(f"axis{i}" for i in range(len(shape)))
        return replace(Mesh._checked(dict(zip(names, shape, strict=True))), ranks=_rank_numbers(mesh, names))

    @staticmethod
    def _checked(axes: Mapping[Any, Any]) -> "Mesh":
        bad = [
            name
            for name, size in axes.items()
            if not is_count(size) or size < 1 or not isinstance(name, str) or not name
        ]
        if bad or not axes:
            raise ShardwrightError(f"mesh: every axis needs a name and at least one rank, got {dict(axes)!r}")
        return Mesh(tuple(axes.items()))

    @property
    def num_ranks(self) -> int:
        """The number of ranks."""
        return math.prod(size for _, size in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """The axis names, in order."""
        return tuple(name for name, _ in self.axes)

    def size(self, axis: str) -> int:
        """The number of ranks along an axis or a union of axes."""
        return math.prod(dict(self.axes)[part] for part in self.parts(axis))

    def parts(self, axis: str) -> tuple[str, ...]:
        """The axes of a union; an axis itself otherwise."""
        return dict(self.unions).get(axis, (axis,))

    def split(self, axis: str, outer: int) -> "Mesh":
        """The mesh with one axis as two, ``outer`` ranks and the rest, named ``axis.0`` and ``axis.1``.

        Every rank keeps its number, and ``axis`` still names the group of both.
        """
        size = self.size(axis)
        assert size % outer == 0, f"{axis} of {size} ranks is not a multiple of {outer}"
        parts = (f"{axis}.0", outer), (f"{axis}.1", size // outer)
        axes = tuple(part for one in self.axes for part in (parts if one[0] == axis else (one,)))
        return Mesh(axes, (*self.unions, (axis, (parts[0][0], parts[1][0]))), self.ranks)

    def place(self, rank: int) -> int:
        """The place of the process that has this rank; raises for a rank that the mesh does not have."""
        known = self.ranks or range(self.num_ranks)
        if not is_count(rank) or rank not in known:
            listed = ", ".join(map(str, self.ranks)) or f"0 to {self.num_ranks - 1}"
            raise ShardwrightError(f"rank {rank!r} is not in the mesh {dict(self.axes)}: it has ranks {listed}")
        return known.index(rank)

    def rank_groups(self, axis: str) -> list[list[int]]:
        """As `groups`, by the processes' own ranks."""
        return [[self.ranks[place] for place in group] if self.ranks else group for group in self.groups(axis)]

    def coordinate(self, rank: int) -> dict[str, int]:
        """The position of a rank on every axis; raises for a rank the mesh does not have."""
        if not is_count(rank) or not 0 <= rank < self.num_ranks:
            raise ShardwrightError(
                f"rank {rank!r} is not in the mesh {dict(self.axes)}: it has ranks 0 to {self.num_ranks - 1}"
            )
        found = {}
        for name, size in reversed(self.axes):
            rank, found[name] = divmod(rank, size)
        return {name: found[name] for name in self.names}

    def rank(self, coordinate: Mapping[str, int]) -> int:
        """The rank at a coordinate: the inverse of `coordinate`."""
        total = 0
        for name, size in self.axes:
            total = total * size + coordinate[name]
        return total

    def groups(self, axis: str) -> list[list[int]]:
        """The rank lists that communicate along an axis or union: one list for every position on the other axes."""
        own = self.parts(axis)
        found: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.num_ranks):
            where = self.coordinate(rank)
            found.setdefault(tuple(where[name] for name in self.names if name not in own), []).append(rank)
        return list(found.values())

    @property
    def group_names(self) -> tuple[str, ...]:
        """Everything a collective may run along: the axes, then the unions."""
        return (*self.names, *(name for name, _ in self.unions))

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.axes)


def _rank_numbers(mesh: Any, names: tuple[str, ...]) -> tuple[int, ...]:
    """The rank at each place of a ``DeviceMesh``; empty where they count up from 0."""
    table = getattr(mesh, "mesh", None)
    if table is None:
        return ()
    for dim, name in enumerate(names):
        for line in table.movedim(dim, -1).reshape(-1, table.shape[dim]).tolist():
            if line != sorted(line):
                raise ShardwrightError(
                    f"mesh: along axis {name!r} the DeviceMesh has the ranks {line}; torch numbers the members of a "
                    "process group in rising order, so they would get each other's pieces\n"
                    "  try: a mesh whose rank numbers rise along every axis"
                )
    numbers = tuple(table.flatten().tolist())
    return () if numbers == tuple(range(len(numbers))) else numbers
