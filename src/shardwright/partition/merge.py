"""One collective over a union of axes in place of two, each over one of its parts.

An axis that was compiled in two parts (see `compiler.split`) reduces or gathers once along each. Both may be done
at once: a sum of sums is a sum over all ranks, and a dim that was cut in equal chunks twice is cut in equal chunks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from shardwright.layout.cut import Cut
from shardwright.program.collectives import all_gather, all_reduce, reduce_scatter
from shardwright.program.duplicate import duplicate
from shardwright.program.legal import Stage, check
from shardwright.program.nodes import graphs_of
from shardwright.program.program import Program

_MERGED = (all_reduce, all_gather, reduce_scatter)


def merge_collectives(program: Program, axis: str, parts: Sequence[str], rank: int) -> Program:
    """The program with one collective for each two along both ``parts`` (outer, inner) of ``axis`` that can be one.

    ``rank``: this rank's position along ``axis``. What is merged: sums, maxima … of the same kind; gathers of one dim;
    reduce-scatters of one dim.
    """
    outer, inner = parts
    made = duplicate(program)
    collectives = (node for graph in graphs_of(made.graph) for node in graph.nodes if node.target in _MERGED)
    for first in list(collectives):
        if len(first.users) != 1:
            continue
        (second,) = first.users
        if second.target is not first.target or second.args[0] is not first:
            continue
        merged = _merged(first, second, axis, outer, inner, rank)
        if merged is not None:
            _replace_both(made, first, second, merged, axis)
    return check(made, Stage.MERGED)


def _merged(first: fx.Node, second: fx.Node, axis: str, outer: str, inner: str, rank: int) -> tuple[Any, ...] | None:
    """The arguments of one collective for two; None where they do not go together."""
    ours: Any = first.args
    theirs: Any = second.args
    if first.target is all_reduce:
        x, op, one = ours
        goes = theirs[1] == op and {one, theirs[2]} == {outer, inner}
        return (x, op, axis) if goes else None
    if first.target is all_gather:
        x, dim, cut, one, _ = ours
        both = _chunks_of_both(theirs[2], cut) if (one, theirs[3]) == (inner, outer) and theirs[1] == dim else None
        return (x, dim, both, axis, rank) if both is not None else None
    if first.target is reduce_scatter:
        x, op, dim, cut, one, _ = ours
        goes = (one, theirs[4]) == (outer, inner) and theirs[1:3] == (op, dim)
        both = _chunks_of_both(cut, theirs[3]) if goes else None
        return (x, op, dim, both, axis, rank) if both is not None else None
    return None


def _chunks_of_both(outer: Cut, inner: Cut) -> Cut | None:
    """The cut of a dim cut by ``outer`` and each piece by ``inner``; None unless both are equal chunks."""
    if not all(cut.is_even and cut.is_chunked for cut in (outer, inner)):
        return None
    return Cut.even(outer.size, outer.num_ranks * inner.num_ranks)


def _replace_both(program: Program, first: fx.Node, second: fx.Node, args: tuple[Any, ...], axis: str) -> None:
    second.args = args
    # What is scattered twice is smaller the second time.
    record = max((one.meta["collective"] for one in (first, second)), key=lambda one: one.num_bytes)
    second.meta["collective"] = replace(record, axis=axis)
    first.graph.erase_node(first)
    if first.graph is program.graph:
        program.origins.pop(first.name, None)
