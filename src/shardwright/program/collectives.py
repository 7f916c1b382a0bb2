"""The compiler's own collectives: small functions with a dim and an axis name, used in graphs until they are lowered.

Called on fake tensors they give a result of the right shape; they never run on data. `partition.redistribute` is the
only place that creates them, and `partition.lower` writes them as ``_c10d_functional`` operators.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import fx

from shardwright.layout.cut import Cut
from shardwright.program.nodes import graphs_of
from shardwright.program.torch_private import schema_of


class CollectiveKind(StrEnum):
    """What a collective does. Equal to its name, so that budgets and comparisons may be written with plain strings."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"


REDUCING = (CollectiveKind.ALL_REDUCE, CollectiveKind.REDUCE_SCATTER)
"""The kinds that combine what ranks hold."""

LOWERED = {
    "all_gather_into_tensor": CollectiveKind.ALL_GATHER,
    "all_reduce": CollectiveKind.ALL_REDUCE,
    "all_to_all_single": CollectiveKind.ALL_TO_ALL,
    "reduce_scatter_tensor": CollectiveKind.REDUCE_SCATTER,
}
"""The operators of ``_c10d_functional`` that `partition.lower` writes, and what each does."""


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


def kind_of(collective: Any) -> CollectiveKind:
    """The kind of one of `COLLECTIVES`."""
    return CollectiveKind(collective.__name__)


def axis_of(node: fx.Node) -> str:
    """The mesh axis that one of `COLLECTIVES` runs along; '' for any other node."""
    return str(node.meta["collective"].axis) if node.target in COLLECTIVES else ""


def holds_collectives(graph: fx.Graph) -> bool:
    """Whether one of `COLLECTIVES` stands in a graph, or in a graph that it runs."""
    return any(node.target in COLLECTIVES for one in graphs_of(graph) for node in one.nodes)


def lowered_name(node: fx.Node) -> str:
    """The name of the ``_c10d_functional`` operator that a node calls; '' for any other node."""
    schema = schema_of(node.target)
    library, _, name = schema.name.partition("::") if schema is not None else ("", "", "")
    return name if library == "_c10d_functional" else ""


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a sharded program, and why it is there.

    ``num_bytes``: of the whole value, on every rank. ``cause``: which layouts met, and the plan entry that forced it.
    ``message``: values of one number above 0 are sent together, as one message; 0: it is sent alone.
    """

    kind: CollectiveKind
    axis: str
    num_bytes: int
    shape: tuple[Any, ...]
    module: str
    source: str
    node: str
    cause: str
    plan_key: str = ""
    message: int = 0

    @property
    def place(self) -> tuple[str, ...]:
        """Where in the model it is, whatever the sizes of a rank's pieces."""
        return self.kind, self.axis, self.module, self.source


def message_of(node: fx.Node) -> int:
    """The number of the message that a node's value is sent in with others; 0 where it is sent alone, or not at all."""
    record = node.meta.get("collective") if node.target in COLLECTIVES else None
    return record.message if isinstance(record, Collective) else 0
