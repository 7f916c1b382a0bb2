"""Random layouts, and what each rank holds under one: worked out here by hand, so that it judges the library's."""

import random
from collections.abc import Sequence
from typing import Any

import torch

import shardwright as sw


def draw_layout(dice: random.Random, shape: tuple[int, ...], num_ranks: int = 1) -> Any:
    """A layout that can be, of a tensor of this shape with at least one dim; mostly one that leaves no rank empty."""
    dim = dice.choice([d for d, size in enumerate(shape) if size >= num_ranks] or range(len(shape)))
    kind = dice.choice(("whole", "even", "even", "unit", "parts"))
    if kind == "whole":
        return sw.Replicate()
    units = [unit for unit in range(2, shape[dim] + 1) if shape[dim] % unit == 0]
    if kind == "unit" and units:
        return sw.Shard(dim, sw.Blocks(unit=dice.choice(units)))
    if kind == "parts" and shape[dim] > 1:
        first = dice.randint(1, shape[dim] - 1)
        return sw.Shard(dim, sw.Blocks(parts=(first, shape[dim] - first)))
    return sw.Shard(dim)


def piece(value: torch.Tensor, layout: Any, rank: int, num_ranks: int) -> torch.Tensor:
    """What ``rank`` holds of a value: of every part of the dim its chunk of whole units, one after the other."""
    if not isinstance(layout, sw.Shard):
        return value
    blocks = layout.cut or sw.Blocks()
    size = value.shape[layout.dim]
    held, start = [], 0
    for part in blocks.parts or (size,):
        chunk = -(-(part // blocks.unit) // num_ranks) * blocks.unit
        held += range(start + min(rank * chunk, part), start + min((rank + 1) * chunk, part))
        start += part
    return value.index_select(layout.dim, torch.tensor(held, dtype=torch.long))


def piece_on_mesh(value: torch.Tensor, layouts: Sequence[Any], sizes: Sequence[int], rank: int) -> torch.Tensor:
    """What ``rank`` of a mesh holds, the axes' layouts applied in order; the last axis varies fastest."""
    places = []
    for size in reversed(sizes):
        rank, place = divmod(rank, size)
        places.insert(0, place)
    for layout, size, place in zip(layouts, sizes, places, strict=True):
        value = piece(value, layout, place, size)
    return value
