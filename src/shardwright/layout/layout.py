"""Where one tensor lives on one mesh axis: `Replicate`, `Shard`, `Partial` or, inside a program, `Owned`.

A `Shard` carries a `Cut`, which says for every index of the dim which rank owns it. Blocked cuts (a packed dim made of
parts, each split), cuts at multiples of a unit (a head), uneven cuts and empty shards are all the same thing: a
run-length list of owners. Each rank holds the indices it owns, in ascending order.

This module is pure: it knows sizes and index ranges, no graphs. Sizes are Python ints or, for dims of unknown size,
sympy expressions; only the repeat count and the inner size of a cut may be symbolic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shardwright.errors import LayoutError
from shardwright.layout.cut import Blocks, Cut, describe_cut
from shardwright.layout.reduce import REDUCTIONS
from shardwright.layout.sizes import Size, is_integer, same_size
from shardwright.layout.values import is_count


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank holds the whole tensor."""

    def __repr__(self) -> str:
        return "Replicate()"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every rank holds a tensor of the full shape; combined by ``op`` (sum, max, min, product) they give the value."""

    op: str = "sum"

    def __post_init__(self) -> None:
        """Raises `LayoutError` for an unknown reduction."""
        if not isinstance(self.op, str) or self.op not in REDUCTIONS:
            raise LayoutError(f"Partial: the reduction must be one of {', '.join(REDUCTIONS)}, got {self.op!r}")

    @property
    def is_zero_but_on_first(self) -> bool:
        """Whether the first rank holds a whole value that is laid out so, and others zeros; else all hold it."""
        return self.op == "sum"

    def __repr__(self) -> str:
        return "Partial()" if self.op == "sum" else f"Partial({self.op!r})"


@dataclass(frozen=True, slots=True)
class Owned:
    """Every rank holds a tensor of the full shape, and each entry is right on one rank only.

    No collective leads to such a layout or from it, and plans cannot ask for it (see `assign.owned`). Tensors with the
    same number ``rows`` have each row right on the same rank; absent: nothing says which rank that is.
    """

    rows: int | None = None

    def __repr__(self) -> str:
        return "Owned()" if self.rows is None else f"Owned({self.rows})"


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


Layout: TypeAlias = Replicate | Partial | Shard | Owned

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
    if not isinstance(size, int) and not is_integer(size / num_ranks):
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
