"""A second program that a pass may change freely, so that the first stays what it was."""

import copy
from dataclasses import replace
from typing import ClassVar

from torch import fx, nn

from shardwright.program.collectives import holds_collectives
from shardwright.program.nodes import copy_node, subgraph_of
from shardwright.program.program import Program


def duplicate(program: Program) -> Program:
    """The same program with a graph of its own; names and metadata are the same, weights and fake tensors shared.

    Graphs that its higher-order operators run are duplicated where they hold collectives, and shared otherwise.
    """
    owner = own_holder(program.graph, program.owner)
    return replace(program, graph=_duplicate_graph(program.graph, owner), owner=owner, origins=dict(program.origins))


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """The same nodes under the same names, also where one is a Python name (``input``), which torch would number."""
    made = copy.deepcopy(graph)
    for copied, node in zip(made.nodes, graph.nodes, strict=True):
        copied.name = node.name
    return made


class GraphOwner(nn.Module):
    """What the ``get_attr`` nodes of a graph name."""

    _create_node_hooks: ClassVar[None] = None
    """A graph asks its owner for these with every node; a module without them looks through all else that it holds."""


def own_holder(graph: fx.Graph, owner: nn.Module) -> GraphOwner:
    """A module with what the ``get_attr`` nodes of a graph name, to which one rank's subgraphs can be added."""
    holder = GraphOwner()
    for node in graph.nodes:
        if node.op == "get_attr":
            first = str(node.target).split(".")[0]
            setattr(holder, first, getattr(owner, first))
    return holder


def _duplicate_graph(graph: fx.Graph, owner: nn.Module) -> fx.Graph:
    made = fx.Graph(owner)  # type: ignore[arg-type]
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = copied = copy_node(made, node, copies)
        subgraph = subgraph_of(node)
        if subgraph is not None and holds_collectives(subgraph.graph):
            assert "." not in str(node.target), f"{node.target}: subgraphs with collectives are named by partition"
            holder = own_holder(subgraph.graph, subgraph)
            copied.meta["val"] = fx.GraphModule(holder, _duplicate_graph(subgraph.graph, holder))
            setattr(owner, str(node.target), copied.meta["val"])
    return made
