"""What operators on neighbours are made of, for when the dim they run along is cut (see `expansions` and `halos`).

Each gathers as many entries of every piece as a place looks away, in place of all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shardwright.rules.operators.norm_expansions import Arguments
from shardwright.rules.operators.place_expansions import CUT
from shardwright.rules.operators.scan_expansions import piece_lengths, running

_own = torch.ops.shardwright


def moved(x: Tensor, dim: int, count: int, lengths: list[int], fill: float | None) -> Tensor | None:
    """For each place the entry ``count`` places on (back, below zero).

    ``fill``: what stands where there is none; None: the dim is a ring. None is given where a piece is shorter.
    """
    width = abs(count)
    if width == 0 or any(0 < length < width for length in lengths):
        return None
    edges = _own.edges(x, dim, count, lengths)
    beyond = []
    for piece in range(len(lengths)):
        neighbour = _next_piece(lengths, piece, 1 if count > 0 else -1, is_ring=fill is None)
        edge = edges.narrow(dim, (neighbour or 0) * width, width)
        beyond.append(edge if neighbour is not None or fill is None else torch.full_like(edge, fill))
    return _own.shifted(x, torch.cat(beyond, dim), dim, count, lengths)


def _next_piece(lengths: Sequence[int], piece: int, step: int, *, is_ring: bool) -> int | None:
    """The nearest piece with entries in a direction; None where there is none."""
    for distance in range(1, len(lengths) + 1):
        other = piece + step * distance
        if not is_ring and not 0 <= other < len(lengths):
            return None
        if lengths[other % len(lengths)]:
            return other % len(lengths)
    return None


def _along(name: str, function: Callable[[Arguments, Tensor, int, list[int]], Any]) -> Callable[[Arguments], Any]:
    """A function that is also given the tensor called ``name``, the dim, and the lengths of its pieces."""

    def expand(a: Arguments) -> Any:
        x = a[name]
        dim = int(a["dim"]) % max(x.ndim, 1)
        lengths = piece_lengths(a.get(CUT), x.shape[dim]) if x.ndim else None
        return None if lengths is None or not isinstance(x.shape[dim], int) else function(a, x, dim, lengths)

    return expand


def _diff(a: Arguments, x: Tensor, dim: int, lengths: list[int]) -> Tensor | None:
    if a["n"] != 1 or a["prepend"] is not None or a["append"] is not None or x.shape[dim] < 2:
        return None
    after = moved(x, dim, 1, lengths, 0)
    if after is None:
        return None
    found = after ^ x if x.dtype == torch.bool else after - x
    return found.narrow(dim, 0, x.shape[dim] - 1)


def _cumulative_trapezoid(a: Arguments, y: Tensor, dim: int, lengths: list[int]) -> Tensor | None:
    after = moved(y, dim, 1, lengths, 0) if y.is_floating_point() and y.shape[dim] > 1 else None
    if after is None:
        return None
    summed = running("sum")({"self": y + after, "dim": dim, "dtype": None, CUT: a[CUT]})
    return (summed * (a["dx"] / 2)).narrow(dim, 0, y.shape[dim] - 1)


def shift(a: Arguments) -> Tensor | None:
    """``pad`` by as much on one side as is cut off the other: the shift of a sequence by a token."""
    x, pad = a["self"], a["pad"]
    if not all(isinstance(width, int) for width in pad) or a.get("mode", "constant") != "constant":
        return None
    used = [(pair, *ends) for pair, ends in enumerate(zip(pad[::2], pad[1::2], strict=True)) if any(ends)]
    if len(used) != 1 or used[0][1] + used[0][2] != 0:
        return None
    dim, count = x.ndim - 1 - used[0][0], -used[0][1]
    lengths = piece_lengths(a.get(CUT), x.shape[dim])
    return None if lengths is None else moved(x, dim, count, lengths, a.get("value") or 0)


def roll(a: Arguments) -> Tensor | None:
    """``roll`` along one dim, by fewer entries than every piece has."""
    x, shifts, dims = a["self"], a["shifts"], a["dims"]
    if len(shifts) != 1 or len(dims) != 1 or not isinstance(shifts[0], int):
        return None
    dim = dims[0] % x.ndim
    lengths = piece_lengths(a.get(CUT), x.shape[dim])
    return None if lengths is None else moved(x, dim, -shifts[0], lengths, None)


HALOS: dict[str, Any] = {
    "aten::constant_pad_nd": shift,
    "aten::cumulative_trapezoid.dx": _along("y", _cumulative_trapezoid),
    "aten::diff": _along("self", _diff),
    "aten::pad": shift,
    "aten::roll": roll,
}
