"""Neighbours in a dim that is cut: the entries at the edge of every piece are gathered, and each rank takes its own.

`edges` gives the first or the last entries of every piece; `shifted` moves a dim by so many places, each piece taking
in what lies beyond its edge. Both name the lengths of the pieces, so that they agree where the dim is cut.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from shardwright.rules.local import Eager
from shardwright.rules.operators.dims import named_dims, put
from shardwright.rules.operators.scans import Runs, pieces_of
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Local, Rule, Term

aten = torch.ops.aten

_END = torch.iinfo(torch.int64).max


def edges_rule(call: Call) -> Rule:
    """``shardwright::edges``: ``count`` entries a piece, in place of the dim."""
    dims, sizes = named_dims(call.operands[0].shape)
    dim, count = call["dim"], abs(call["count"])
    sizes.update(piece=len(call["lengths"]), count=count)
    return Rule(
        (dims,),
        (put(dims, dim, Term(("piece", "count"))),),
        sizes,
        frozenset({"piece", "count"}),
        dropped=frozenset({f"d{dim}"}),
        pieces=pieces_of(call),
        localize=local_edges,
        is_written_out=True,
    )


def shifted_rule(call: Call) -> Rule:
    """``shardwright::shifted``: every piece with what lies beyond it."""
    dims, sizes = named_dims(call.operands[0].shape)
    sizes.update(piece=len(call["lengths"]), count=abs(call["count"]))
    beyond = put(dims, call["dim"], Term(("piece", "count")))
    return Rule(
        (dims, beyond),
        (dims,),
        sizes,
        frozenset({"piece", "count"}),
        pieces=pieces_of(call),
        localize=local_shifted,
        is_written_out=True,
    )


def local_edges(local: Local) -> Any:
    """The edge of this rank's piece, zeros where it has none; of all pieces where the dim is whole."""
    x, dim, count = (local.arguments[name] for name in ("self", "dim", "count"))
    cut = local.strategy.factor_cut(f"d{dim}")
    if cut is None:
        return _write_edges(local, x, dim, count, local.arguments["lengths"])
    if cut.is_concrete and cut.local_size(local.rank) == 0:
        pad = [0, 0] * (local.call.operands[0].ndim - 1 - dim) + [0, abs(count)]
        return local.run(aten.constant_pad_nd.default, x, pad)
    return _edge(local, x, dim, count)


def local_shifted(local: Local) -> Any:
    """This rank's piece, moved; the whole dim with what lies beyond its end where it is not cut."""
    x, beyond, dim, count = (local.arguments[name] for name in ("self", "beyond", "dim", "count"))
    cut = local.strategy.factor_cut(f"d{dim}")
    if cut is None:
        return _write_shifted(local, x, beyond, dim, count)
    if cut.is_concrete and cut.local_size(local.rank) == 0:
        return local.run(aten.clone.default, x)
    return _move(local, x, beyond, dim, count)


def _edge(run: Runs, x: Any, dim: int, count: int) -> Any:
    """The first entries; the last for a ``count`` below zero."""
    return run.run(aten.slice.Tensor, x, dim, *((0, count) if count > 0 else (count, _END)))


def _move(run: Runs, x: Any, beyond: Any, dim: int, count: int) -> Any:
    """Entries from ``count`` places on, or before for a ``count`` below zero."""
    kept = run.run(aten.slice.Tensor, x, dim, *((count, _END) if count > 0 else (0, count)))
    return run.run(aten.cat.default, [kept, beyond] if count > 0 else [beyond, kept], dim)


def _write_edges(run: Runs, x: Any, dim: int, count: int, lengths: Sequence[int]) -> Any:
    units = run.run(aten.unflatten.int, x, dim, [sum(lengths), -1])
    found, start = [], 0
    for length in lengths:
        # A piece without entries has an edge of zeros, as long as the others.
        part = run.run(aten.narrow.default, units, dim, start if length else 0, length or sum(lengths))
        edge = _edge(run, run.run(aten.flatten.using_ints, part, dim, dim + 1), dim, count)
        found.append(edge if length else run.run(aten.zeros_like.default, edge))
        start += length
    return run.run(aten.cat.default, found, dim)


def _write_shifted(run: Runs, x: Any, beyond: Any, dim: int, count: int) -> Any:
    # What lies beyond the last piece, or before the first.
    return _move(run, x, _edge(run, beyond, dim, -count), dim, count)


library.define("shardwright::edges", "(Tensor self, int dim, int count, int[] lengths) -> Tensor")
library.define("shardwright::shifted", "(Tensor self, Tensor beyond, int dim, int count, int[] lengths) -> Tensor")


@library.impl("shardwright::edges", "CompositeExplicitAutograd")
def _edges(x: Tensor, dim: int, count: int, lengths: list[int]) -> Tensor:
    return _write_edges(Eager(), x, dim, count, lengths)


@library.impl("shardwright::shifted", "CompositeExplicitAutograd")
def _shifted(x: Tensor, beyond: Tensor, dim: int, count: int, lengths: list[int]) -> Tensor:
    return _write_shifted(Eager(), x, beyond, dim, count)


@library.register_fake("shardwright::edges")
def _edges_like(x: Tensor, dim: int, count: int, lengths: list[int]) -> Tensor:
    return x.new_empty([*x.shape[:dim], len(lengths) * abs(count), *x.shape[dim + 1 :]])


@library.register_fake("shardwright::shifted")
def _shifted_like(x: Tensor, beyond: Tensor, dim: int, count: int, lengths: list[int]) -> Tensor:
    return torch.empty_like(x)


RULES: dict[str, Entry] = {
    "shardwright::edges": Entry(edges_rule),
    "shardwright::shifted": Entry(shifted_rule),
}
