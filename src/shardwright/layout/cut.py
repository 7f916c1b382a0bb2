"""Who owns each index of a dim that is cut.

Pure: sizes and index ranges, no tensors. Only the repeat count and the inner size of a cut may be symbolic.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import sympy

from shardwright.errors import LayoutError
from shardwright.layout.sizes import Size, as_size, is_integer
from shardwright.layout.values import is_count

EVERY = -1
"""The owner of a run that every rank holds: keys and values of a packed projection, say, whose one head all share."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Who owns each index of a dim: ``runs`` of (owner, length), read ``repeat`` times, each index ``inner`` wide.

    A run of `EVERY` is held by all ranks.

    The dim's size is ``repeat * sum(lengths) * inner``. For concrete sizes ``inner`` is folded into the runs and the
    period is the shortest one, so two cuts that give every rank the same indices compare equal.

    >>> Cut.even(8, 2)
    Cut(num_ranks=2, runs=((0, 4), (1, 4)))
    >>> Cut.even(5, 4).local_sizes()
    (2, 2, 1, 0)
    """

    num_ranks: int
    runs: tuple[tuple[int, int], ...]
    repeat: Size = 1
    inner: Size = 1
    _hash: int | None = field(default=None, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        # Cuts are keys everywhere, and have a run for every rank.
        if self._hash is None:
            object.__setattr__(self, "_hash", hash((self.num_ranks, self.runs, self.repeat, self.inner)))
        return cast(int, self._hash)

    def __reduce__(self) -> tuple[type["Cut"], tuple[object, ...]]:
        # Not with its hash, which in another process may be another one.
        return Cut, (self.num_ranks, self.runs, self.repeat, self.inner)

    def __repr__(self) -> str:
        tail = "" if self.repeat == 1 else f", repeat={self.repeat}"
        tail += "" if self.inner == 1 else f", inner={self.inner}"
        return f"Cut(num_ranks={self.num_ranks}, runs={self.runs}{tail})"

    @staticmethod
    def of(num_ranks: int, runs: Iterable[tuple[int, int]], repeat: Size = 1, inner: Size = 1) -> "Cut":
        """The canonical cut: empty runs dropped, neighbours merged, the shortest period, ``inner`` folded in."""
        if isinstance(inner, int) and inner != 1:
            runs, inner = [(owner, length * inner) for owner, length in runs], 1
        if num_ranks == 1:
            runs = [(0, length) for _, length in runs]
        merged: list[tuple[int, int]] = []
        for owner, length in runs:
            if length and merged and merged[-1][0] == owner:
                merged[-1] = (owner, merged[-1][1] + length)
            elif length:
                merged.append((owner, length))
        period = _shortest_period(merged)
        if period != len(merged):
            repeat, merged = repeat * (len(merged) // period), merged[:period]
        if merged and merged[0][0] == merged[-1][0] and isinstance(repeat, int) and repeat != 1:
            # The last run of a period joins the first of the next, so the period is not what repeats.
            return Cut.of(num_ranks, merged * repeat, inner=inner)
        return Cut(num_ranks, tuple(merged), repeat, inner)

    @staticmethod
    @lru_cache(maxsize=65536)
    def even(size: Size, num_ranks: int, unit: int = 1) -> "Cut":
        """Chunks as ``torch.chunk`` makes them: ceil(units / ranks) units each, the last shards shorter or empty.

        A symbolic ``size`` must be divisible by ``num_ranks``; every rank then owns ``size / num_ranks`` indices.
        """
        if not isinstance(size, int):
            return Cut.of(num_ranks, [(rank, 1) for rank in range(num_ranks)], inner=size / num_ranks)
        if size % unit:
            raise LayoutError(f"a dim of size {size} cannot be cut at multiples of {unit}: {size} % {unit} != 0")
        units = size // unit
        chunk = -(-units // num_ranks)
        counts = [max(0, min(chunk, units - rank * chunk)) for rank in range(num_ranks)]
        return Cut.of(num_ranks, [(rank, count * unit) for rank, count in enumerate(counts)])

    @staticmethod
    def join(cuts: Sequence["Cut"]) -> "Cut":
        """The cut of the dims laid end to end, as ``cat`` would lay them. Sizes must be concrete."""
        return Cut.of(cuts[0].num_ranks, [run for cut in cuts for run in cut.flat_runs()])

    @staticmethod
    def whole(size: int, num_ranks: int) -> "Cut":
        """Every rank holds all: for a part of a packed dim whose other parts are cut."""
        return Cut.of(num_ranks, [(EVERY, size)])

    @property
    def is_shared(self) -> bool:
        """Whether every rank holds some of the indices."""
        return _is_shared(self)

    @property
    def is_whole(self) -> bool:
        """Whether every rank holds all indices: no cut, but for its name."""
        return self.is_shared and len(self.runs) == 1

    def owned(self, rank: int) -> int:
        """How many indices of one period ``rank`` holds."""
        return sum(length for owner, length in self.runs if owner in (rank, EVERY))

    @property
    def period(self) -> int:
        """The summed length of the runs."""
        return _period(self)

    @property
    def size(self) -> Size:
        """The global size of the dim."""
        return self.repeat * self.period * self.inner

    @property
    def is_concrete(self) -> bool:
        """Whether the size is a number."""
        return isinstance(self.repeat, int) and isinstance(self.inner, int)

    def flat_runs(self) -> list[tuple[int, int]]:
        """The runs of the whole dim, the repeats written out. Only for concrete cuts."""
        assert isinstance(self.repeat, int) and self.inner == 1, "only a cut of known size has flat runs"
        return list(self.runs) * self.repeat

    def local_size(self, rank: int) -> Size:
        """How many indices ``rank`` owns."""
        return self.repeat * self.owned(rank) * self.inner

    def local_sizes(self) -> tuple[Size, ...]:
        """How many indices each rank owns."""
        return tuple(self.repeat * owned * self.inner for owned in _owned_by_rank(self))

    def fraction(self, rank: int) -> float:
        """The share of the dim that ``rank`` owns, from 0 to 1."""
        return self.owned(rank) / max(self.period, 1)

    @property
    def largest_fraction(self) -> float:
        """The share of the rank that owns most."""
        return _largest_fraction(self)

    @property
    def is_even(self) -> bool:
        """Whether all ranks own equally many indices."""
        return len(set(_owned_by_rank(self))) == 1

    @property
    def is_chunked(self) -> bool:
        """Whether the ranks' indices lie one after the other in rank order, as after an all-gather along the dim."""
        if self.is_shared:
            return False
        return self.repeat == 1 and all(a < b for (a, _), (b, _) in zip(self.runs, self.runs[1:], strict=False))

    def intervals(self, rank: int) -> list[tuple[int, int]]:
        """The global half-open index ranges that ``rank`` owns, ascending. Only for concrete cuts."""
        found: list[tuple[int, int]] = []
        position = 0
        for owner, length in self.flat_runs():
            is_ours = owner in (rank, EVERY)
            if is_ours and found and found[-1][1] == position:
                found[-1] = (found[-1][0], position + length)
            elif is_ours:
                found.append((position, position + length))
            position += length
        return found

    def sources(self) -> list[tuple[int, int, int]]:
        """Where the dim's runs are found, one after the other: (rank, offset in its piece, length)."""
        offsets = [0] * self.num_ranks
        found = []
        for owner, length in self.flat_runs():
            holders = range(self.num_ranks) if owner == EVERY else (owner,)
            found.append((holders[0], offsets[holders[0]], length))
            for rank in holders:
                offsets[rank] += length
        return found

    def scale(self, inner: Size) -> "Cut":
        """The cut of the product dim (this, inner): every index becomes ``inner`` indices with the same owner."""
        return self if inner == 1 else Cut.of(self.num_ranks, self.runs, self.repeat, self.inner * inner)

    def tile(self, outer: Size) -> "Cut":
        """The cut of the product dim (outer, this): the owners repeat ``outer`` times."""
        if isinstance(outer, int) and outer == 0:
            return Cut.of(self.num_ranks, [(0, 0)])
        return self if outer == 1 else Cut.of(self.num_ranks, self.runs, self.repeat * outer, self.inner)

    def unscale(self, inner: Size) -> "Cut | None":
        """The cut of ``a`` where this one cuts the product (a, inner); None when it splits an index of ``a``."""
        if inner == 1:
            return self
        if not isinstance(inner, int) or not isinstance(self.inner, int):
            rest = sympy.simplify(self.inner / inner)
            return Cut.of(self.num_ranks, self.runs, self.repeat, as_size(rest)) if is_integer(rest) else None
        if inner == 0 or any(length % inner for _, length in self.runs):
            return None
        return Cut.of(self.num_ranks, [(owner, length // inner) for owner, length in self.runs], self.repeat)

    def untile(self, outer: Size) -> "Cut | None":
        """The cut of ``b`` where this one cuts the product (outer, b); None when the owners do not repeat so."""
        if outer == 1:
            return self
        if isinstance(outer, int) and isinstance(self.repeat, int):
            if outer and self.repeat % outer == 0:
                return Cut.of(self.num_ranks, self.runs, self.repeat // outer, self.inner)
            if outer == 0 or self.inner != 1 or self.size % outer:
                return None
            part = self.slice(0, self.size // outer)
            return part if part.tile(outer) == self else None
        rest = sympy.simplify(self.repeat / outer)
        return Cut.of(self.num_ranks, self.runs, as_size(rest), self.inner) if is_integer(rest) else None

    def slice(self, start: int, stop: int) -> "Cut":
        """The cut of the indices ``start`` to ``stop`` alone. Only for concrete cuts."""
        assert isinstance(self.repeat, int) and self.inner == 1, "only a cut of known size has parts"
        period = max(self.period, 1)
        # A cut may repeat thousands of times (rows of pixels): only the ends are looked at run by run.
        first, last = -(-start // period), stop // period
        if first >= last:
            return Cut.of(self.num_ranks, self._runs_between(start, stop))
        head, tail = self._runs_between(start, first * period), self._runs_between(last * period, stop)
        if not head and not tail:
            return Cut.of(self.num_ranks, self.runs, last - first)
        return Cut.of(self.num_ranks, [*head, *self.runs * (last - first), *tail])

    def _runs_between(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The runs of the indices ``start`` to ``stop``, less than two periods apart."""
        position = start // max(self.period, 1) * self.period
        found = []
        while position < stop:
            for owner, length in self.runs:
                kept = min(stop, position + length) - max(start, position)
                if kept > 0:
                    found.append((owner, kept))
                position += length
        return found


@lru_cache(maxsize=65536)
def _is_shared(cut: Cut) -> bool:
    return any(owner == EVERY for owner, _ in cut.runs)


@lru_cache(maxsize=65536)
def _period(cut: Cut) -> int:
    return sum(length for _, length in cut.runs)


@lru_cache(maxsize=65536)
def _largest_fraction(cut: Cut) -> float:
    return max(_owned_by_rank(cut)) / max(cut.period, 1)


@lru_cache(maxsize=65536)
def _owned_by_rank(cut: Cut) -> tuple[int, ...]:
    """`Cut.owned` of every rank, in one pass over the runs."""
    shared = sum(length for owner, length in cut.runs if owner == EVERY)
    found = [shared] * cut.num_ranks
    for owner, length in cut.runs:
        if owner != EVERY:
            found[owner] += length
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Blocks:
    """How to cut a dim, before its size and the number of ranks are known.

    ``parts``: the sizes of the parts of a packed dim, each cut by itself; absent: the dim is one part.
    ``unit``: cut only at multiples of this many indices (a head, say), the same for every part.
    """

    parts: tuple[int, ...] = ()
    unit: int = 1

    def __post_init__(self) -> None:
        """Raises `LayoutError` for a unit below 1, a part below 0, and what is not a whole number."""
        if not is_count(self.unit) or self.unit < 1:
            raise LayoutError(f"Blocks: unit must be a whole number of at least 1, got {self.unit!r}")
        if not isinstance(self.parts, (tuple, list)) or not all(is_count(part) and part >= 0 for part in self.parts):
            raise LayoutError(f"Blocks: parts must be whole numbers of at least 0, got {self.parts!r}")
        object.__setattr__(self, "parts", tuple(self.parts))

    def cut(self, size: Size, num_ranks: int) -> Cut:
        """The `Cut` of a dim of ``size`` among ``num_ranks``; raises `LayoutError` when the parts do not fit."""
        if not self.parts:
            return Cut.even(size, num_ranks, self.unit)
        if sum(self.parts) != size:
            raise LayoutError(f"parts {self.parts} sum to {sum(self.parts)}, but the dim has size {size}")
        return Cut.join([Cut.even(part, num_ranks, self.unit) for part in self.parts])


def describe_cut(cut: Cut) -> Cut | Blocks:
    """The `Blocks` that make a cut, when there are such; else the cut itself."""
    if not cut.is_concrete:
        even = len({length for _, length in cut.runs}) == 1 and [o for o, _ in cut.runs] == list(range(cut.num_ranks))
        return Blocks() if even and cut.repeat == 1 else cut
    size = cast(int, cut.size)
    for unit in (1, math.gcd(*(length for _, length in cut.runs)) or 1):
        if Cut.even(size, cut.num_ranks, unit) == cut:
            return Blocks(unit=unit)
    parts: list[int] = []
    previous = cut.num_ranks
    for owner, length in cut.flat_runs():
        if owner <= previous:
            parts.append(0)
        parts[-1] += length
        previous = owner
    for unit in (1, math.gcd(*(length for _, length in cut.runs)) or 1):
        if all(part % unit == 0 for part in parts) and Blocks(tuple(parts), unit).cut(size, cut.num_ranks) == cut:
            return Blocks(tuple(parts), unit)
    return cut


def on_size(cut: Cut, size: int) -> Cut:
    """A cut of symbolic size on a dim whose size has become known."""
    if cut.is_concrete:
        return cut
    if isinstance(cut.repeat, int):
        return Cut.of(cut.num_ranks, cut.runs, cut.repeat, size // (cut.repeat * cut.period))
    assert isinstance(cut.inner, int), "either the repeats or the inner size of a cut are symbolic"
    return Cut.of(cut.num_ranks, cut.runs, size // (cut.period * cut.inner), cut.inner)


def _shortest_period(runs: list[tuple[int, int]]) -> int:
    count = len(runs)
    for period in range(1, count // 2 + 1):
        if count % period == 0 and runs[period:] == runs[:-period]:
            return period
    return count
