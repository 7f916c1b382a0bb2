"""`partition`: walk the graph and write one rank's side of every step.

For each step the operands are brought to the layouts its strategy wants (each value once per layout, shared by all
readers), size arguments are made local, and the operator is written with metadata from a run on fake tensors.
"""

from collections.abc import Mapping

from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.partition.walk import Walk
from shardwright.program.collectives import COLLECTIVES, Collective
from shardwright.program.legal import Stage, check
from shardwright.program.nodes import graphs_of
from shardwright.program.program import Program


def partition(
    program: Program, assignment: Assignment, axis: str, rank: int, plan_keys: Mapping[str, str] | None = None
) -> Program:
    """The program of coordinate ``rank`` on ``axis``. ``plan_keys``: placeholder → plan entry.

    Weights stay lazy. Raises `RuleError` when an operator cannot run on its local operands.
    """
    return check(Walk(program, assignment, axis, rank, dict(plan_keys or {})).run(), Stage.PARTITIONED)


def collectives_of(program: Program) -> list[Collective]:
    """The collectives of a program that is not lowered yet, in order, of all axes so far."""
    return [node.meta["collective"] for node in collective_nodes(program)]


def collective_nodes(program: Program) -> list[fx.Node]:
    """The nodes of a program that is not lowered yet that communicate, in order, those of subgraphs included."""
    nodes = (node for graph in graphs_of(program.graph) for node in graph.nodes)
    return [node for node in nodes if node.target in COLLECTIVES]
