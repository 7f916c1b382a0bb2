"""The compiler's own collectives: small functions with a dim and an axis name, used in graphs until they are lowered.

Called on fake tensors they give a result of the right shape; they never run on data. `partition.reshard` is the only
place that creates them, and `partition.lower` spells them in ``_c10d_functional`` operators.
"""

from dataclasses import dataclass
from typing import Any

from shardwright.layout.cut import Cut


def all_reduce(x: Any, op: str, axis: str) -> Any:
    """Combine every rank's ``x`` by ``op``; all get the result."""
    return x.new_empty(x.shape)


def all_gather(x: Any, dim: int, cut: Cut, axis: str, rank: int) -> Any:
    """The whole tensor from pieces of ``dim`` cut by ``cut``."""
    return x.new_empty((*x.shape[:dim], _whole(x, dim, cut, rank), *x.shape[dim + 1 :]))


def reduce_scatter(x: Any, op: str, dim: int, cut: Cut, axis: str, rank: int) -> Any:
    """Combine every rank's ``x`` by ``op``; each gets its piece of ``dim``."""
    return x.new_empty((*x.shape[:dim], _share(x, dim, cut, rank), *x.shape[dim + 1 :]))


def all_to_all(x: Any, dim: int, cut: Cut, new_dim: int, new_cut: Cut, axis: str, rank: int) -> Any:
    """Move the cut from ``dim`` to ``new_dim``."""
    shape = list(x.shape)
    shape[dim] = _whole(x, dim, cut, rank)
    shape[new_dim] = _share(x, new_dim, new_cut, rank)
    return x.new_empty(shape)


def _whole(x: Any, dim: int, cut: Cut, rank: int) -> Any:
    return cut.size if cut.is_concrete else x.shape[dim] * cut.period // cut.owned(rank)


def _share(x: Any, dim: int, cut: Cut, rank: int) -> Any:
    return cut.local_size(rank) if cut.is_concrete else x.shape[dim] * cut.owned(rank) // cut.period


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
