"""A `Local` that writes one rank's side of a call into its graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from shardwright.layout.cut import Cut
from shardwright.partition.emit import is_dense
from shardwright.rules.call import unbind_arguments
from shardwright.rules.rule import Call, Rule, Strategy

if TYPE_CHECKING:
    from shardwright.partition.walk import Walk


@dataclass
class GraphLocal:
    """A `Local` that writes operators into one rank's graph."""

    walk: "Walk"
    call: Call
    rule: Rule
    strategy: Strategy
    rank: int
    arguments: dict[str, Any]
    name: str

    def run(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Write ``op``; a list or tuple result comes as a list of nodes."""
        return self.walk.emit.open(self.walk.emit.call(op, *args, **kwargs))

    def run_call(self, /, **changed: Any) -> Any:
        """Write the call's own operator, some arguments changed."""
        args, kwargs = unbind_arguments(self.call.op, {**self.arguments, **changed})
        return self.walk.emit.open(self.walk.emit.call(self.call.op, *args, name=self.name, **kwargs))

    def is_dense(self, value: fx.Node) -> bool:
        """Whether a local tensor is contiguous."""
        return is_dense(value)

    def ranges(self, cut: Cut) -> list[tuple[int, int]]:
        """The indices this rank owns, which no other rank does: the code is its own."""
        self.walk.emit.is_of_rank = True
        return cut.intervals(self.rank)

    def rank_value(self, per_rank: Sequence[float], dtype: torch.dtype) -> fx.Node:
        """A constant of the program: this rank's number, so that the code is the same on all ranks."""
        return self.walk.constants.node(tuple(per_rank), dtype)
