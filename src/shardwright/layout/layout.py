"""Where one tensor lives on one mesh axis: `Replicate`, `Shard` or `Partial`.

A `Shard` carries a `Cut`, which says for every index of the dim which rank owns it. Blocked cuts (a packed dim made of
parts, each split), cuts at multiples of a unit (a head), uneven cuts and empty shards are all the same thing: a
run-length list of owners. Each rank holds the indices it owns, in ascending order.

This module is pure: it knows sizes and index ranges, no graphs. Sizes are Python ints or, for dims of unknown size,
sympy expressions; only the repeat count and the inner size of a cut may be symbolic.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import sympy
import torch

from shardwright.errors import LayoutError
from shardwright.layout.values import is_count

if TYPE_CHECKING:
    Size: TypeAlias = Any  # sympy publishes no types for its arithmetic
else:
    Size: TypeAlias = int | sympy.Expr
"""A size: an int, or a sympy expression where it is not known before the program runs."""


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
        return any(owner == EVERY for owner, _ in self.runs)

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
        return sum(length for _, length in self.runs)

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
        return tuple(self.repeat * owned * self.inner for owned in self._owned_by_rank())

    def _owned_by_rank(self) -> list[int]:
        """`owned` of every rank, in one pass over the runs."""
        shared = sum(length for owner, length in self.runs if owner == EVERY)
        found = [shared] * self.num_ranks
        for owner, length in self.runs:
            if owner != EVERY:
                found[owner] += length
        return found

    def fraction(self, rank: int) -> float:
        """The share of the dim that ``rank`` owns, from 0 to 1."""
        return self.owned(rank) / max(self.period, 1)

    @property
    def largest_fraction(self) -> float:
        """The share of the rank that owns most."""
        return max(self._owned_by_rank()) / max(self.period, 1)

    @property
    def is_even(self) -> bool:
        """Whether all ranks own equally many indices."""
        return len(set(self._owned_by_rank())) == 1

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

    def owned_below(self, rank: int, index: int) -> int:
        """How many of the indices below ``index`` belong to ``rank``: the local position of a global index."""
        return sum(max(0, min(stop, index) - start) for start, stop in self.intervals(rank))

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
            return Cut.of(self.num_ranks, self.runs, self.repeat, _as_size(rest)) if _is_integer(rest) else None
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
        return Cut.of(self.num_ranks, self.runs, _as_size(rest), self.inner) if _is_integer(rest) else None

    def slice(self, start: int, stop: int) -> "Cut":
        """The cut of the indices ``start`` to ``stop`` alone. Only for concrete cuts."""
        kept, position = [], 0
        for owner, length in self.flat_runs():
            kept.append((owner, max(0, min(stop, position + length) - max(start, position))))
            position += length
        return Cut.of(self.num_ranks, kept)


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


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank holds the whole tensor."""

    def __repr__(self) -> str:
        return "Replicate()"


OWNED = "rows of"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every rank holds a tensor of the full shape; combined by ``op`` (sum, max, min, product) they give the value.

    An ``op`` that begins with `OWNED` names no reduction: each row is right on one rank (see `assign.owned`).
    """

    op: str = "sum"

    def __post_init__(self) -> None:
        """Raises `LayoutError` for an unknown reduction."""
        if not isinstance(self.op, str) or not (self.op in REDUCTIONS or self.is_owned):
            raise LayoutError(f"Partial: the reduction must be one of {', '.join(REDUCTIONS)}, got {self.op!r}")

    @property
    def is_owned(self) -> bool:
        """Whether no collective makes the value of it."""
        return self.op.startswith(OWNED)

    def __repr__(self) -> str:
        return "Partial()" if self.op == "sum" else f"Partial({self.op!r})"


@dataclass(frozen=True, slots=True)
class Shard:
    """Dim ``dim`` is cut; ``cut`` says how. Absent or `Blocks`: to be resolved against a shape with `resolve`.

    >>> Shard(0)                                            # equal chunks, as torch means it
    Shard(0)
    >>> Shard(0, Blocks(parts=(512, 128, 128), unit=64))    # q, k and v packed, whole heads of 64
    Shard(0, Blocks(parts=(512, 128, 128), unit=64))
    """

    dim: int
    cut: Cut | Blocks | None = None

    def __post_init__(self) -> None:
        """Raises `LayoutError` for a dim that is not a whole number, or a cut that says nothing about it."""
        if not is_count(self.dim):
            raise LayoutError(f"Shard: the dim must be a whole number, got {self.dim!r}")
        if self.cut is not None and not isinstance(self.cut, (Cut, Blocks)):
            raise LayoutError(f"Shard: the cut must be Blocks(…), got {self.cut!r}")

    def __repr__(self) -> str:
        how = describe_cut(self.cut) if isinstance(self.cut, Cut) else self.cut
        return f"Shard({self.dim})" if how in (None, Blocks()) else f"Shard({self.dim}, {how})"


Layout: TypeAlias = Replicate | Partial | Shard

REPLICATE = Replicate()


def resolve(layout: Layout, shape: Sequence[Size], num_ranks: int) -> Layout:
    """The layout with its cut worked out for a tensor of global ``shape`` on ``num_ranks`` ranks.

    A negative dim counts from the end. On one rank every layout is whole. Raises `LayoutError` for a dim that does not
    exist, parts or units that do not fit, or a dim of symbolic size whose divisibility is unknown.
    """
    if not isinstance(layout, Shard):
        return layout if num_ranks > 1 else REPLICATE
    if not -len(shape) <= layout.dim < len(shape):
        raise LayoutError(f"{layout} cuts dim {layout.dim} of a tensor with {len(shape)} dims")
    dim = layout.dim % len(shape)
    if isinstance(layout.cut, Cut):
        if layout.cut.num_ranks != num_ranks or not same_size(layout.cut.size, shape[dim]):
            raise LayoutError(f"{layout.cut} does not fit a dim of size {shape[dim]} on {num_ranks} ranks")
        return Shard(dim, layout.cut) if num_ranks > 1 else REPLICATE
    size = shape[dim]
    if not isinstance(size, int) and not _is_integer(size / num_ranks):
        raise LayoutError(
            f"dim {dim} has the symbolic size {size}, not known to be a multiple of {num_ranks} ranks\n"
            f'  try: export this dim as {num_ranks} * torch.export.Dim("parts"), which is one at every length'
        )
    cut = (layout.cut or Blocks()).cut(size, num_ranks)
    return Shard(dim, cut) if num_ranks > 1 else REPLICATE


def cut_of(layout: Shard) -> Cut:
    """The resolved cut of a shard."""
    assert isinstance(layout.cut, Cut), f"{layout} has not been resolved against a shape"
    return layout.cut


def local_shape(shape: Sequence[Size], layout: Layout, rank: int) -> tuple[Size, ...]:
    """The shape of ``rank``'s piece of a tensor of global ``shape``."""
    if not isinstance(layout, Shard):
        return tuple(shape)
    return (*shape[: layout.dim], cut_of(layout).local_size(rank), *shape[layout.dim + 1 :])


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


def take_shard(tensor: torch.Tensor, layout: Layout, rank: int) -> torch.Tensor:
    """``rank``'s piece of a whole tensor: a view where one range suffices, else a copy.

    For ``Partial("sum")`` rank 0 takes the value and the others zeros; for other reductions every rank takes the value.
    """
    if isinstance(layout, Partial) and layout.op == "sum" and rank:
        return torch.zeros_like(tensor)
    if not isinstance(layout, Shard):
        return tensor
    spans = _on_size(cut_of(layout), tensor.shape[layout.dim]).intervals(rank)
    if not spans:
        return tensor.narrow(layout.dim, 0, 0)
    pieces = [tensor.narrow(layout.dim, start, stop - start) for start, stop in spans]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, layout.dim)


REDUCTIONS = {"sum": torch.add, "max": torch.maximum, "min": torch.minimum, "product": torch.mul}
"""How partial values are combined, by name."""


def join_shards(shards: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
    """The whole tensor from every rank's piece, in rank order: the inverse of `take_shard`."""
    if isinstance(layout, Replicate):
        return shards[0]
    if isinstance(layout, Partial):
        total = shards[0]
        for shard in shards[1:]:
            total = REDUCTIONS[layout.op](total, shard)
        return total
    dim = layout.dim
    cut = _on_size(cut_of(layout), sum(shard.shape[dim] for shard in shards))
    pieces = [shards[rank].narrow(dim, offset, length) for rank, offset, length in cut.sources()]
    return torch.cat(pieces, dim) if pieces else shards[0]


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(sympy.simplify(a - b) == 0)


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def total(sizes: Iterable[Size]) -> Size:
    """The sum of sizes; 0 for none."""
    result: Size = 0
    for size in sizes:
        result = result + size
    return result


def _on_size(cut: Cut, size: int) -> Cut:
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


def _is_integer(value: Size) -> bool:
    return isinstance(value, int) or bool(sympy.simplify(value).is_integer)


def _as_size(value: Size) -> Size:
    return int(value) if isinstance(value, sympy.Integer) else value
