"""Scans over a dim that is cut: every rank scans its piece, and what the ranks before it add up to joins.

`scan_totals` reduces every piece to one entry; those are gathered, one a rank and row, and `scan_from` scans each piece
on from what lies before it. Both name the lengths of the pieces, so that they agree where the dim is cut.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, library

from shardwright.layout.cut import Cut
from shardwright.layout.reduce import REDUCTIONS
from shardwright.rules.local import Eager, number_in
from shardwright.rules.operators.dims import named_dims, put
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Local, Rule, Term

aten = torch.ops.aten


class Runs(Protocol):
    """What runs or emits operators."""

    def run(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run or emit ``op``."""
        ...


@dataclass(frozen=True, slots=True)
class Scan:
    """How one kind of scan is made: of a whole dim (kept with size 1), along it, of two parts; what changes nothing."""

    reduce: Callable[[Runs, Any, int], Any]
    along: Callable[[Runs, Any, int], Any]
    combine: Any
    neutral: float


def _extreme(reduce: Any, along: Any, combine: Any, neutral: float) -> Scan:
    return Scan(
        lambda local, x, dim: local.run(reduce, x, [dim], True),
        lambda local, x, dim: local.run(along, x, dim)[0],
        combine,
        neutral,
    )


SCANS: Mapping[str, Scan] = {
    "logsumexp": Scan(
        lambda local, x, dim: local.run(aten.logsumexp.default, x, [dim], True),
        lambda local, x, dim: local.run(aten.logcumsumexp.default, x, dim),
        aten.logaddexp.default,
        REDUCTIONS["max"].neutral,
    ),
    "max": _extreme(aten.amax.default, aten.cummax.default, aten.maximum.default, REDUCTIONS["max"].neutral),
    "min": _extreme(aten.amin.default, aten.cummin.default, aten.minimum.default, REDUCTIONS["min"].neutral),
    "product": Scan(
        lambda local, x, dim: local.run(aten.prod.dim_int, x, dim, True),
        lambda local, x, dim: local.run(aten.cumprod.default, x, dim),
        aten.mul.Tensor,
        REDUCTIONS["product"].neutral,
    ),
    "sum": Scan(
        lambda local, x, dim: local.run(aten.sum.dim_IntList, x, [dim], True),
        lambda local, x, dim: local.run(aten.cumsum.default, x, dim),
        aten.add.Tensor,
        REDUCTIONS["sum"].neutral,
    ),
}


def totals_rule(call: Call) -> Rule:
    """``shardwright::scan_totals``: one entry a piece, in place of the dim."""
    dims, sizes = named_dims(call.operands[0].shape)
    dim, lengths = call["dim"], call["lengths"]
    sizes["piece"] = len(lengths)
    return Rule(
        (dims,),
        (put(dims, dim, Term(("piece",))),),
        sizes,
        frozenset({"piece"}),
        reduces={f"d{dim}": "sum"},
        multiplies=(tuple(f"d{i}" for i in range(len(dims))),),
        pieces=pieces_of(call),
        localize=local_totals,
        is_written_out=True,
    )


def from_rule(call: Call) -> Rule:
    """``shardwright::scan_from``: every piece from what lies before it."""
    dims, sizes = named_dims(call.operands[0].shape)
    sizes["piece"] = len(call["lengths"])
    before = put(dims, call["dim"], Term(("piece",)))
    return Rule(
        (dims, before),
        (dims,),
        sizes,
        frozenset({"piece"}),
        pieces=pieces_of(call),
        localize=local_from,
        is_written_out=True,
    )


def pieces_of(call: Call) -> dict[str, tuple[str, Cut]]:
    """The factor with one index for each piece of the call's dim, and the cut that its lengths say."""
    lengths, size = call["lengths"], call.operands[0].shape[call["dim"]]
    unit = size // sum(lengths) if isinstance(size, int) else size / sum(lengths)
    return {"piece": (f"d{call['dim']}", Cut.of(len(lengths), enumerate(lengths), inner=unit))}


def local_totals(local: Local) -> Any:
    """The entry of this rank's piece; of all pieces where the dim is whole."""
    x, dim, kind = local.arguments["self"], local.arguments["dim"], local.arguments["kind"]
    cut = local.strategy.factor_cut(f"d{dim}")
    if cut is None:
        return _write_totals(local, x, local.call.operands[0].dtype, dim, kind, local.arguments["lengths"])
    if cut.is_concrete and cut.local_size(local.rank) == 0:
        meta = local.call.operands[0]
        pad = [0, 0] * (meta.ndim - 1 - dim) + [0, 1]
        x = local.run(aten.constant_pad_nd.default, x, pad, number_in(SCANS[kind].neutral, meta.dtype))
    return SCANS[kind].reduce(local, x, dim)


def local_from(local: Local) -> Any:
    """The scan of this rank's piece, joined with what lies before it; a plain scan where the dim is whole."""
    x, before, dim, kind = (local.arguments[name] for name in ("self", "before", "dim", "kind"))
    cut = local.strategy.factor_cut(f"d{dim}")
    if cut is not None and cut.is_concrete and cut.local_size(local.rank) == 0:
        return local.run(aten.clone.default, x)
    found = SCANS[kind].along(local, x, dim)
    return found if cut is None else local.run(SCANS[kind].combine, found, before)


def _write_totals(local: Runs, x: Any, dtype: torch.dtype, dim: int, kind: str, lengths: Sequence[int]) -> Any:
    scan, neutral = SCANS[kind], number_in(SCANS[kind].neutral, dtype)
    units = local.run(aten.unflatten.int, x, dim, [sum(lengths), -1])
    found, start = [], 0
    for length in lengths:
        # Of no elements there is no maximum.
        part = local.run(aten.narrow.default, units, dim, start if length else 0, max(length, 1))
        total = scan.reduce(local, local.run(aten.flatten.using_ints, part, dim, dim + 1), dim)
        found.append(total if length else local.run(aten.full_like.default, total, neutral))
        start += length
    return local.run(aten.cat.default, found, dim)


library.define("shardwright::scan_totals", "(Tensor self, int dim, str kind, int[] lengths) -> Tensor")
library.define("shardwright::scan_from", "(Tensor self, Tensor before, int dim, str kind, int[] lengths) -> Tensor")


@library.impl("shardwright::scan_totals", "CompositeExplicitAutograd")
def _scan_totals(x: Tensor, dim: int, kind: str, lengths: list[int]) -> Tensor:
    return _write_totals(Eager(), x, x.dtype, dim, kind, lengths)


@library.impl("shardwright::scan_from", "CompositeExplicitAutograd")
def _scan_from(x: Tensor, before: Tensor, dim: int, kind: str, lengths: list[int]) -> Tensor:
    # What lies before the first piece is nothing, so the pieces' totals join by themselves.
    return SCANS[kind].along(Eager(), x, dim)


@library.register_fake("shardwright::scan_totals")
def _totals_like(x: Tensor, dim: int, kind: str, lengths: list[int]) -> Tensor:
    return x.new_empty([*x.shape[:dim], len(lengths), *x.shape[dim + 1 :]])


@library.register_fake("shardwright::scan_from")
def _scan_like(x: Tensor, before: Tensor, dim: int, kind: str, lengths: list[int]) -> Tensor:
    return torch.empty_like(x)


RULES: dict[str, Entry] = {
    "shardwright::scan_from": Entry(from_rule),
    "shardwright::scan_totals": Entry(totals_rule),
}
