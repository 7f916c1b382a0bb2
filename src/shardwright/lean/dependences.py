"""What the collectives of one rank's program depend on, by their numbers: what ranks must agree on to reorder them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.export.graph_signature import InputKind

from shardwright.program.collectives import COLLECTIVES
from shardwright.program.nodes import draws_numbers, graphs_of, subgraph_of
from shardwright.program.program import Program

Sources = dict[fx.Node, list[fx.Node]]
"""Node → the nodes that must run before it."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """What is known of one collective, the nth of a program's own graph.

    ``before``: the collectives that must have come before it, as the bits of a number. ``is_given``: whether its value
    follows from what the user gives, rather than from weights alone. ``ready``, ``place``: where its operand, and it
    itself, stand in the graph.
    """

    node: fx.Node
    before: int
    is_given: bool
    ready: int
    place: int


def dependences(program: Program) -> list[Dependence]:
    """Every collective of the program's own graph, in order; those inside its subgraphs stay where they are."""
    user = {item.name for item in program.inputs if item.kind == InputKind.USER_INPUT}
    sources = sources_in(program)
    position = {node: number for number, node in enumerate(program.graph.nodes)}
    reached: dict[fx.Node, int] = {}
    given: dict[fx.Node, bool] = {}
    found: list[Dependence] = []
    for node in program.graph.nodes:
        before, is_given = 0, node.op == "placeholder" and node.name in user
        for source in sources[node]:
            before |= reached[source]
            is_given |= given[source]
        if is_collective(node):
            operand: Any = node.args[0]
            found.append(Dependence(node, before, is_given, position[operand], position[node]))
            before |= 1 << (len(found) - 1)
        reached[node], given[node] = before, is_given
    return found


def sources_in(program: Program) -> Sources:
    """The `sources_of` a program's own graph, worked out once: the program stays as it is."""
    return program.once("sources", lambda: sources_of(program.graph))


def sources_of(graph: fx.Graph) -> Sources:
    """What must run before each node: its operands, and what came before it where order itself is meant.

    Random numbers are drawn in the order of the original. Nothing that communicates passes a node whose subgraph does.
    """
    found: Sources = {}
    drawn: fx.Node | None = None
    barrier: fx.Node | None = None
    since: list[fx.Node] = []
    for node in graph.nodes:
        found[node] = list(node.all_input_nodes)
        if is_collective(node):
            found[node] += [barrier] if barrier is not None else []
            since.append(node)
        inside = list(_inside(node))
        if any(is_collective(one) for one in inside):
            found[node] += since if barrier is None else [barrier, *since]
            barrier, since = node, []
        if draws_numbers(node) or any(map(draws_numbers, inside)):
            found[node] += [drawn] if drawn is not None else []
            drawn = node
    return found


def is_collective(node: fx.Node) -> bool:
    """Whether a node is one of the compiler's collectives."""
    return node.op == "call_function" and node.target in COLLECTIVES


def _inside(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes of the subgraphs that a node runs."""
    subgraphs = (subgraph_of(argument) for argument in node.args)
    return (inner for one in subgraphs if one is not None for graph in graphs_of(one.graph) for inner in graph.nodes)
