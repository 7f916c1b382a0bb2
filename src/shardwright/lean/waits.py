"""`wait_late`: every collective is waited for where its value is first read, so that what does not need it goes on."""

from torch import fx

from shardwright.lean.arrange import resequence
from shardwright.partition.message import UNPACKS
from shardwright.program.legal import Stage, check
from shardwright.program.program import Program


def wait_late(program: Program) -> Program:
    """The lowered program with each ``wait_tensor``, and what brings a value into its form after it, put off.

    Changed in place; subgraphs stay as they are.
    """
    resequence(program.graph, _late(program.graph))
    return check(program, Stage.LEAN)


def _late(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of a graph, those that can be put off before their first readers."""
    order: list[fx.Node] = []
    late: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if UNPACKS in node.meta:
            late[node] = None
            continue
        # What nobody reads is waited for all the same, before the output.
        waiting = [node, *reversed(late)] if node.op == "output" else [node]
        while waiting:
            needed = [source for source in waiting[-1].all_input_nodes if source in late]
            if needed:
                waiting.extend(reversed(needed))
                continue
            last = waiting.pop()
            if last in late or last is node:
                late.pop(last, None)
                order.append(last)
    return order
