"""The compiler's own collectives: small functions with a dim and an axis name, in graphs between partition and lower.

They are never run: `lower` spells them in ``_c10d_functional`` operators, which know neither dims nor axes.
"""

from dataclasses import dataclass
from typing import Any

from shardwright.layout import Cut


def all_reduce(x: Any, op: str, axis: str) -> Any:
    """Combine every rank's ``x`` by ``op``; all get the result."""
    raise NotImplementedError("a compiler collective is lowered before it runs")


def all_gather(x: Any, dim: int, cut: Cut, axis: str, rank: int) -> Any:
    """The whole tensor from pieces of ``dim`` cut by ``cut``."""
    raise NotImplementedError("a compiler collective is lowered before it runs")


def reduce_scatter(x: Any, op: str, dim: int, cut: Cut, axis: str, rank: int) -> Any:
    """Combine every rank's ``x`` by ``op``; each gets its piece of ``dim``."""
    raise NotImplementedError("a compiler collective is lowered before it runs")


def all_to_all(x: Any, dim: int, cut: Cut, new_dim: int, new_cut: Cut, axis: str, rank: int) -> Any:
    """Move the cut from ``dim`` to ``new_dim``."""
    raise NotImplementedError("a compiler collective is lowered before it runs")


COLLECTIVES = (all_reduce, all_gather, reduce_scatter, all_to_all)


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a sharded program, and why it is there.

    ``num_bytes``: of the whole value, on every rank. ``cause``: which layouts met, and the plan entry that forced it.
    """

    kind: str
    axis: str
    num_bytes: int
    shape: tuple[Any, ...]
    module: str
    source: str
    node: str
    cause: str
    plan_key: str = ""
