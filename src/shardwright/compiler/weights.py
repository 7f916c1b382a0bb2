"""Where every parameter, buffer and constant of a compiled program lives, and how many bytes a rank holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import torch

from shardwright.compiler.axes import Compiled
from shardwright.layout.layout import Layout
from shardwright.layout.mesh import Coordinates


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where a parameter, buffer or constant lives: one layout a mesh axis, and the bytes each rank holds.

    ``layouts``: those of the first rank; a rank to which an axis before left fewer indices cuts those in the same way.
    ``elsewhere``: axis → coordinates on the axes before → layout, for ranks that have another layout there.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layouts: Mapping[str, Layout]
    num_bytes: int
    rank_bytes: tuple[int, ...]
    plan_key: str = ""
    elsewhere: Mapping[str, Mapping[Coordinates, Layout]] = field(default_factory=dict)


def weight_layouts(compiled: Compiled) -> list[WeightLayout]:
    """Every parameter, buffer and constant, in order of the program's inputs."""
    held, kinds = _bytes_by_kind(compiled), _kind_of_rank(compiled)
    found = []
    for item in compiled.program.inputs:
        if not item.is_state or item.target is None:
            continue
        tensor = compiled.program.weights[item.target].tensor
        keys = (one.request.named[item.name].key for one in compiled.axes if item.name in one.request.named)
        found.append(
            WeightLayout(
                name=item.target,
                kind=item.kind.name.lower(),
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                layouts=first_layouts(compiled, item.name),
                num_bytes=tensor.numel() * tensor.element_size(),
                rank_bytes=tuple(held[kind][item.target] for kind in kinds),
                plan_key=next(keys, ""),
                elsewhere=other_layouts(compiled, item.name),
            )
        )
    return found


def rank_bytes(compiled: Compiled) -> list[int]:
    """The bytes of weights that every rank holds."""
    totals = {kind: sum(pieces.values()) for kind, pieces in _bytes_by_kind(compiled).items()}
    return [totals[kind] for kind in _kind_of_rank(compiled)]


def _kind_of_rank(compiled: Compiled) -> list[Coordinates]:
    """The kind of every rank: as many as the mesh has, and few of them distinct."""
    return list(product(*(one.alike for one in compiled.axes)))


def _bytes_by_kind(compiled: Compiled) -> dict[Coordinates, dict[str, int]]:
    """What a rank of each kind holds of every weight, in bytes."""
    state = [(item.name, item.target) for item in compiled.program.inputs if item.is_state and item.target is not None]
    found: dict[Coordinates, dict[str, int]] = {}
    for place in compiled.kinds():
        pieces = found[place] = {}
        for name, target in state:
            piece = compiled.program.weights[target]
            for layout, coordinate in zip(compiled.layouts(name, place), place, strict=True):
                piece = piece.with_cut(layout, coordinate)
            pieces[target] = piece.num_bytes
    return found


def first_layouts(compiled: Compiled, name: str) -> dict[str, Layout]:
    """The layout of a placeholder on every axis, as the first rank sees it."""
    held = compiled.layouts(name, (0,) * len(compiled.axes))
    return {one.axis: layout for one, layout in zip(compiled.axes, held, strict=True)}


def other_layouts(compiled: Compiled, name: str) -> dict[str, dict[Coordinates, Layout]]:
    """Axis → coordinates on the axes before → the layout of a placeholder, for ranks that see another there."""
    found: dict[str, dict[Coordinates, Layout]] = {}
    for depth, one in enumerate(compiled.axes):
        held = compiled.layouts_by_kind(depth, name)
        # Layouts that print alike are the same of what there is to cut.
        first = repr(held[(0,) * depth])
        others = {kind: layout for kind, layout in held.items() if repr(layout) != first}
        if others:
            places = product(*(range(size) for _, size in compiled.mesh.axes[:depth]))
            found[one.axis] = {at: others[compiled.kind(at)] for at in places if compiled.kind(at) in others}
    return found
