"""The time of a call by the cost model, on every rank and on one rank alone: what cutting is predicted to gain."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from shardwright.assign.cost import CostModel
from shardwright.compiler.axes import Compiled
from shardwright.compiler.split import costs_us
from shardwright.page.words import format_time
from shardwright.program.collectives import COLLECTIVES, Collective
from shardwright.program.nodes import graphs_of
from shardwright.program.program import Program
from shardwright.program.torch_private import has_schema


@dataclass(frozen=True, slots=True)
class Prediction:
    """Microseconds of one call by a cost model; of the busiest rank.

    ``communication_us``: of ``num_collectives``, ``latency_us`` of which are latencies, one for each message.
    ``work_us``: what operators read, write and compute; ``repeated_us`` of it is beyond a rank's even share: what
    several ranks do alike, or one rank more than others. ``calls_us``: what calls take whatever their size.
    ``alone_us``: all of it on one rank that holds everything whole, with the memory and threads of one rank.
    """

    hardware: str
    num_ranks: int
    num_collectives: int
    communication_us: float
    latency_us: float
    work_us: float
    repeated_us: float
    calls_us: float
    alone_us: float

    @property
    def total_us(self) -> float:
        """The time of a call."""
        return self.communication_us + self.work_us + self.calls_us

    @property
    def is_slower(self) -> bool:
        """Whether the ranks together are predicted to be slower than one of them alone."""
        return self.total_us > self.alone_us * (1 + 1e-6)

    def __str__(self) -> str:
        """A sentence; two where the ranks are slower than one alone: what they spend that one does not."""
        found = (
            f"predicted for {self.hardware}: {format_time(self.total_us)} a call on each of {self.num_ranks} ranks"
            f" ({format_time(self.communication_us)} in {self.num_collectives} collectives), "
            f"{format_time(self.alone_us)} on one alone"
        )
        if not self.is_slower:
            return found
        return (
            f"{found}\n"
            f"slower than one rank: {format_time(self.latency_us)} of latencies, "
            f"{format_time(self.communication_us - self.latency_us)} of bytes sent, "
            f"{format_time(self.repeated_us)} of work that ranks repeat"
        )


def predict(compiled: Compiled, collectives: Sequence[Collective], cost: CostModel) -> Prediction:
    """What the cost model says of a compiled program and its collectives, those that are sent together marked so."""
    apart_us, work_us = costs_us(compiled, cost)
    alone_us = compiled.axes[0].assignment.whole_work_us
    num_messages = len({one.message for one in collectives} - {0}) + sum(not one.message for one in collectives)
    return Prediction(
        hardware=cost.name or "a cost model of the caller's",
        num_ranks=compiled.mesh.num_ranks,
        num_collectives=len(collectives),
        communication_us=apart_us - (len(collectives) - num_messages) * cost.latency_us,
        latency_us=num_messages * cost.latency_us,
        work_us=work_us,
        repeated_us=max(work_us - alone_us / compiled.mesh.num_ranks, 0.0),
        calls_us=cost.call_us * _num_calls(compiled.finished((0,) * len(compiled.axes))),
        alone_us=alone_us + cost.call_us * _num_calls(compiled.program),
    )


def _num_calls(program: Program) -> int:
    """The operators that a program calls, collectives not counted."""
    return sum(_is_call(node) for graph in graphs_of(program.graph) for node in graph.nodes)


def _is_call(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target not in COLLECTIVES and has_schema(node.target)
