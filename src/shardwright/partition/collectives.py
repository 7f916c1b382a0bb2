"""What a sharded program says about each of its collectives."""

from dataclasses import dataclass
from typing import Any


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
