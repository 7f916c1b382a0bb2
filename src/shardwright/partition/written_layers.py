"""What a rank runs for the layers that stand for others, found in the program that was written of a shallow one.

That it would run the same for each of the others is looked at: the layer before the one that is kept is like it too,
and must have been written alike.
"""

from dataclasses import dataclass

from torch import fx

from shardwright.errors import ShardwrightError
from shardwright.program.layers import Keys, Layer, layer_of
from shardwright.program.nodes import module_path, numbered_module
from shardwright.program.program import Program
from shardwright.program.shallow import Shallow, Shortened


class UnlikeLayersError(ShardwrightError):
    """Layers that are alike were not written alike."""


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """What a rank runs for a layer that is kept, from its first call to that of the layer after it, and for the layer
    before it: the same, node by node.
    """

    stack: Shortened
    before: Layer
    kept: Layer

    @staticmethod
    def of(local: Program, stack: Shortened, keys: Keys) -> "WrittenLayer":
        """Of one stack; raises as `find_written`."""
        container, number = stack.kept.container, stack.kept.number
        nodes = [node for node in local.graph.nodes if node.op not in ("placeholder", "output")]
        numbers = [number - 2, number - 1, number, stack.left_out[-1].number + 1]
        places: dict[str | None, list[int]] = {f"{container}.{one}": [] for one in numbers}
        for place, node in enumerate(nodes):
            module = numbered_module(module_path(node))
            if module in places:
                places[module].append(place)
        if not all(places.values()):
            raise UnlikeLayersError(f"nothing is written for some layers of {container!r}")
        starts = [one[0] for one in places.values()]
        ends = [*starts[1:], [*places.values()][-1][-1] + 1]
        bounds = zip(numbers, starts, ends, strict=True)
        first, before, kept, after = (layer_of(container, one, nodes[start:end]) for one, start, end in bounds)
        key = keys.key(before, kept, after)
        if starts != sorted(starts) or key is None or keys.key(first, before, kept) != key:
            raise UnlikeLayersError(f"{kept.module!r} is not written as {before.module!r} is")
        return WrittenLayer(stack, before, kept)


def find_written(local: Program, shallow: Shallow) -> "list[WrittenLayer]":
    """Where the layers that stand for others lie in a rank's program, or in what that was made of.

    Raises `UnlikeLayersError` where one was not written as the layer before it.
    """
    keys = Keys.of(local)
    return [WrittenLayer.of(local, one, keys) for one in shallow.stacks]


def pair_nodes(local: Program, deep: Program, shallow: Shallow) -> dict[fx.Node, fx.Node]:
    """For each node of a deepened program, the one of the shallow program that it was written as, outputs left out."""
    stands_for = shallow.stands_for()
    mine = {node.name: node for node in local.placeholders()}
    found = {node: mine[stands_for.get(node.name, node.name)] for node in deep.placeholders()}
    last = {one.kept.nodes[-1]: one for one in find_written(local, shallow)}
    order: list[fx.Node] = []
    for node in local.graph.nodes:
        if node.op not in ("placeholder", "output"):
            order.append(node)
        if node in last:
            order += last[node].kept.nodes * len(last[node].stack.left_out)
    written = [node for node in deep.graph.nodes if node.op not in ("placeholder", "output")]
    found.update(zip(written, order, strict=True))
    return found
