"""Where every parameter, buffer and constant of a compiled program lives, and how many bytes a rank holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shardwright.compiler.axes import Compiled
from shardwright.layout.layout import REPLICATE, Layout
from shardwright.program.program import Weight


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where a parameter, buffer or constant lives: one layout a mesh axis, and the bytes each rank holds."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layouts: Mapping[str, Layout]
    num_bytes: int
    rank_bytes: tuple[int, ...]
    plan_key: str = ""


def weight_layouts(compiled: Compiled) -> list[WeightLayout]:
    """Every parameter, buffer and constant, in order of the program's inputs."""
    ranks = [_pieces(compiled, rank) for rank in range(compiled.mesh.num_ranks)]
    found = []
    for item in compiled.program.inputs:
        if not item.is_state or item.target is None:
            continue
        tensor = compiled.program.weights[item.target].tensor
        layouts = {one.axis: one.assignment.layouts.get(item.name, REPLICATE) for one in compiled.axes}
        keys = (one.request.named[item.name].key for one in compiled.axes if item.name in one.request.named)
        found.append(
            WeightLayout(
                name=item.target,
                kind=item.kind.name.lower(),
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                layouts=layouts,
                num_bytes=tensor.numel() * tensor.element_size(),
                rank_bytes=tuple(pieces[item.target].num_bytes for pieces in ranks),
                plan_key=next(keys, ""),
            )
        )
    return found


def rank_bytes(compiled: Compiled) -> list[int]:
    """The bytes of weights that every rank holds."""
    return [
        sum(piece.num_bytes for piece in _pieces(compiled, rank).values()) for rank in range(compiled.mesh.num_ranks)
    ]


def _pieces(compiled: Compiled, rank: int) -> dict[str, Weight]:
    """What one rank holds of every weight."""
    pieces = dict(compiled.program.weights)
    coordinate = compiled.mesh.coordinate(rank)
    for one in compiled.axes:
        for item in compiled.program.inputs:
            if item.is_state and item.target is not None:
                layout = one.assignment.layouts.get(item.name, REPLICATE)
                pieces[item.target] = pieces[item.target].with_cut(layout, coordinate[one.axis])
    return pieces
