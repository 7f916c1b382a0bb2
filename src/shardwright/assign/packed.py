"""Packed dims: the parts laid end to end in one dim, and which of their cuts go together.

A fused projection is q, k and v; a state-space layer's is a gate, a step and a packed dim again. A cut of such a dim
cuts every part, and only cuts of one index space belong together: whole heads of q with whole heads of k, not with any
other cut of k that the graph mentions. Cuts of two dims are *bound* where an operator that cuts one so cuts the other
so; what is bound, directly or by way of others, is one cut of one index space. The cut of a packed dim takes the bound
cuts of its parts, wherever each part is taken from the dim (``x[:8]`` here, ``x[8:]`` there).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from shardwright.assign.bonds import Bonds
from shardwright.assign.steps import Value
from shardwright.layout.cut import Cut
from shardwright.rules.rule import Dims, Rule, Term

ValueDim = tuple[Value, int]
"""A dim of a value."""

DimCut = tuple[ValueDim, Cut]
"""A cut of a dim."""

Sides = list[tuple[list[Value], Dims]]
"""Of every operand and result of a site: the values that lie there, and its dims."""


@dataclass
class Pack:
    """One packed dim: where its parts start and stop, and the dims that hold each part by itself."""

    dim: ValueDim
    parts: list[tuple[int, int, tuple[ValueDim, ...]]] = field(default_factory=list)
    """Of every operator that takes the dim apart or puts it together, one after the other."""

    def pieces(self) -> list[tuple[int, int]]:
        """The smallest parts: all ends of parts cut the dim."""
        ends = sorted({end for start, stop, _ in self.parts for end in (start, stop)})
        return list(pairwise(ends))


def find_packs(described: Iterable[tuple[Rule, Sides]]) -> list[Pack]:
    """The packed dims of all sites, in order."""
    found: dict[ValueDim, Pack] = {}
    for rule, sides in described:
        for values, dim, term in _sums(sides):
            sizes = [rule.sizes[name] for name in term.factors]
            if not all(isinstance(size, int) for size in sizes):
                continue
            start = 0
            for name, size in zip(term.factors, sizes, strict=True):
                stop = start + int(size)  # type: ignore[arg-type]
                holders = tuple(_holders(sides, name))
                for value in values:
                    found.setdefault((value, dim), Pack((value, dim))).parts.append((start, stop, holders))
                start = stop
    return list(found.values())


def _sums(sides: Sides) -> Iterator[tuple[list[Value], int, Term]]:
    for values, dims in sides:
        for dim, term in enumerate(dims):
            if term.is_sum and len(term.factors) > 1:
                yield values, dim, term


def _holders(sides: Sides, name: str) -> Iterator[ValueDim]:
    for values, dims in sides:
        for dim, term in enumerate(dims):
            if term == Term((name,)):
                yield from ((value, dim) for value in values)


def joined_cuts(
    pack: Pack, known: Mapping[ValueDim, Mapping[Cut, None]], bonds: Bonds[DimCut], num_ranks: int, *, agreed: bool
) -> list[Cut]:
    """The cuts of a packed dim that bound cuts of its parts make; ``known``: the cuts of each dim.

    ``agreed``: those in which every part has a say; they are bound to the cuts of the parts. Otherwise, where there are
    no such, those in which some have, most first. The others are shared by all ranks (the keys and values of one head,
    beside its queries), which is bound too, or cut in equal chunks.
    """
    pieces = pack.pieces()
    by_root: dict[DimCut, dict[int, Cut]] = {}
    held: set[int] = set()
    for start, stop, holders in pack.parts:
        inside = [i for i, (a, b) in enumerate(pieces) if start <= a and b <= stop]
        held.update(inside if holders else ())
        for holder in holders:
            for cut in known.get(holder, ()):
                cuts = by_root.setdefault(bonds.root((holder, cut)), {})
                for i in inside:
                    if i not in cuts:
                        cuts[i] = cut.slice(pieces[i][0] - start, pieces[i][1] - start)
    full = [root for root, cuts in by_root.items() if len(cuts) == len(held)]
    if bool(full) != agreed:
        return []
    found: dict[Cut, None] = {}
    for root in full or sorted(by_root, key=lambda root: -len(by_root[root])):
        cuts = by_root[root]
        even = [Cut.even(stop - start, num_ranks) for start, stop in pieces]
        joined = Cut.join([cuts.get(i, one) for i, one in enumerate(even)])
        if not agreed and _may_share(cuts, pieces, held):
            rest = [
                Cut.whole(stop - start, num_ranks) if i in held else even[i] for i, (start, stop) in enumerate(pieces)
            ]
            shared = Cut.join([cuts.get(i, one) for i, one in enumerate(rest)])
            found[shared] = None
            bonds.join([root, (pack.dim, shared)])
        found[joined] = None
        if agreed:
            bonds.join([root, (pack.dim, joined)])
    return list(found)


def _may_share(cuts: Mapping[int, Cut], pieces: Sequence[tuple[int, int]], held: Collection[int]) -> bool:
    """Whether all ranks may hold what these cuts leave out: they are the larger part of the dim, and spread evenly."""
    sizes = {i: pieces[i][1] - pieces[i][0] for i in held}
    is_most = 2 * sum(sizes[i] for i in cuts) > sum(sizes.values())
    return is_most and all(cut.largest_fraction * cut.num_ranks < 2 for cut in cuts.values())
