"""Regions: which indices of a whole tensor a rank holds, and how to put one region together from others.

Reading a slice of a checkpoint, gathering a package and going from four ranks to eight are the same act: the wanted
region is met with the region of every holder, and what they share is copied.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from shardwright.layout.layout import Layout, Partial, Shard, cut_of

Spans: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open index ranges of one dim, ascending."""


@dataclass(frozen=True, slots=True)
class Region:
    """The indices a rank holds: index ranges for every dim; their product is the region.

    >>> Region.whole((4, 6))
    Region(spans=(((0, 4),), ((0, 6),)))
    """

    spans: tuple[Spans, ...]

    @staticmethod
    def whole(shape: Sequence[int]) -> "Region":
        """All of a tensor of ``shape``."""
        return Region(tuple(((0, size),) for size in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the piece."""
        return tuple(sum(stop - start for start, stop in spans) for spans in self.spans)


class Holder(Protocol):
    """Something that holds a region of a tensor and copies boxes of it."""

    @property
    def region(self) -> Region:
        """What it holds, in the indices of the whole tensor."""
        ...

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy the values in a box of its own (local) indices into ``out``, of the box's shape, cast to its dtype."""
        ...


@dataclass(frozen=True)
class WholeTensor:
    """What holders of all of a tensor have in common."""

    shape: tuple[int, ...]

    @property
    def region(self) -> Region:
        """All of the tensor."""
        return Region.whole(self.shape)


def region_of(shape: Sequence[int], cuts: Iterable[tuple[Layout, int]]) -> Region | None:
    """What is left of a tensor of global ``shape`` after ``cuts``: (layout, coordinate), one a mesh axis, in order.

    None: nothing of its values; the piece is zeros, because it is a part of a sum whose value another rank holds.
    """
    spans = list(Region.whole(shape).spans)
    for layout, coordinate in cuts:
        if coordinate and isinstance(layout, Partial) and layout.is_zero_but_on_first:
            return None
        if isinstance(layout, Shard):
            spans[layout.dim] = _within(spans[layout.dim], cut_of(layout).intervals(coordinate))
    return Region(tuple(spans))


def read_region(wanted: Region, holders: Iterable[Holder], dtype: torch.dtype) -> torch.Tensor:
    """The piece ``wanted``, as ``dtype``, copied from the holders; what several hold is taken from the last."""
    piece = torch.empty(wanted.shape, dtype=dtype)
    for holder in holders:
        shared = [_overlaps(ours, theirs) for ours, theirs in zip(wanted.spans, holder.region.spans, strict=True)]
        for box in itertools.product(*shared):
            here = tuple(slice(to, to + length) for to, _, length in box)
            holder.copy(tuple(slice(start, start + length) for _, start, length in box), piece[here])
    return piece


def _within(spans: Spans, local: Sequence[tuple[int, int]]) -> Spans:
    """Local ranges, counted along ``spans`` laid end to end, as ranges of the whole dim."""
    found: list[tuple[int, int]] = []
    offset = 0
    for start, stop in spans:
        for first, last in local:
            low, high = max(first, offset), min(last, offset + stop - start)
            if low < high:
                found.append((start + low - offset, start + high - offset))
        offset += stop - start
    return tuple(sorted(found))


def _overlaps(ours: Spans, theirs: Spans) -> list[tuple[int, int, int]]:
    """(our offset, their offset, length) of every range of indices that both hold."""
    found = []
    our_offset = 0
    for start, stop in ours:
        their_offset = 0
        for first, last in theirs:
            low, high = max(start, first), min(stop, last)
            if low < high:
                found.append((our_offset + low - start, their_offset + low - first, high - low))
            their_offset += last - first
        our_offset += stop - start
    return found
