"""What scans are made of, for when the dim they run along is cut (see `expansions` and `scans`).

One gather of a number a rank and row, whatever is scanned. Half precision is raised to float32 and rounded once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shardwright.layout.cut import Cut
from shardwright.layout.sizes import same_size
from shardwright.rules.call import symbolic_size
from shardwright.rules.local import Eager, number_in
from shardwright.rules.operators.norm_expansions import Arguments, raised
from shardwright.rules.operators.place_expansions import CUT, places
from shardwright.rules.operators.scans import SCANS

own = torch.ops.shardwright


def piece_lengths(cut: Cut | None, size: Any) -> list[int] | None:
    """How long each rank's piece of a dim of ``size`` is, in rank order, in a unit common to all.

    None where they do not lie one after the other, or the cut is of another dim.
    """
    if cut is None or not cut.is_chunked or not same_size(cut.size, symbolic_size(size)):
        return None
    return [cut.owned(rank) for rank in range(cut.num_ranks)]


def _scan(x: Tensor, dim: int, kind: str, lengths: list[int]) -> Tensor:
    scan = SCANS[kind]
    totals = own.scan_totals(x, dim, kind, lengths)
    first = torch.full_like(totals.narrow(dim, 0, 1), number_in(scan.neutral, x.dtype))
    # What lies before each piece: nothing before the first, and so on.
    before = torch.cat([first, totals.narrow(dim, 0, len(lengths) - 1)], dim)
    return own.scan_from(x, scan.along(Eager(), before, dim), dim, kind, lengths)


def _along(function: Callable[[Arguments, int, list[int]], Any]) -> Callable[[Arguments], Any]:
    """A function that is also given the dim, counted from the front, and the lengths of its pieces."""

    def expand(a: Arguments) -> Any:
        x = a["self"]
        dim = int(a["dim"]) % max(x.ndim, 1)
        lengths = piece_lengths(a.get(CUT), x.shape[dim]) if x.ndim else None
        return None if lengths is None else function(a, dim, lengths)

    return expand


def running(kind: str) -> Callable[[Arguments], Any]:
    """``cumsum``, ``cumprod``."""

    def expand(a: Arguments, dim: int, lengths: list[int]) -> Tensor:
        x = a["self"]
        # Whole numbers and truth values are counted in 64 bits.
        dtype = a["dtype"] or (x.dtype if x.is_floating_point() or x.is_complex() else torch.int64)
        return _scan(raised(x.to(dtype)), dim, kind, lengths).to(dtype)

    return _along(expand)


def _logcumsumexp(a: Arguments, dim: int, lengths: list[int]) -> Tensor | None:
    x = a["self"]
    if x.is_complex():
        return None
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return _scan(raised(x.to(dtype)), dim, "logsumexp", lengths).to(dtype)


def running_extreme(kind: str) -> Callable[[Arguments], Any]:
    """``cummax``, ``cummin``: values, and the last place that has each: a scan of places."""

    def expand(a: Arguments, dim: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
        x = a["self"]
        values = _scan(x, dim, kind, lengths)
        hit = x == values
        hit = hit | x.isnan() if x.is_floating_point() else hit
        return values, _scan(torch.where(hit, places(x, [dim]), 0), dim, "max", lengths)

    return _along(expand)


EXPANDED_SCANS: dict[str, Any] = {
    "aten::cummax": running_extreme("max"),
    "aten::cummin": running_extreme("min"),
    "aten::cumprod": running("product"),
    "aten::cumsum": running("sum"),
    "aten::logcumsumexp": _along(_logcumsumexp),
}
