"""What a call or a change of layout wrote, written again for its equals: other layers, in a third of the time."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from shardwright.partition.emit import Emitter
from shardwright.partition.message import UNPACKS
from shardwright.program.nodes import RANGE
from shardwright.rules.call import map_values

OF_NODES = (RANGE, UNPACKS)
"""What metadata says of a node itself, rather than of the step that it is written for."""


@dataclass(frozen=True, slots=True)
class _Template:
    """``operands``: the nodes that the first step read; ``written``: those it wrote, and whether under its own name."""

    operands: Sequence[fx.Node]
    written: Sequence[tuple[fx.Node, bool]]
    result: Any


class Templates:
    """The templates of one rank's graph, by what decides them."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._known: dict[Hashable, _Template] = {}

    def follow(self, key: Hashable, operands: Sequence[fx.Node], name: str, write: Callable[[], Any]) -> Any:
        """What ``write`` gives of these operands: nodes, nested as it likes; it is called once for equal keys.

        ``key`` stands for all that it writes, but for which nodes it reads. Operands count as equal where they have
        the same metadata (see `Emitter.number`), and where the same ones of them are one node.
        """
        full = (key, *map(self._emit.number, operands), *map(operands.index, operands))
        known = self._known.get(full)
        if known is None:
            result, written = self._emit.logged(name, write)
            self._known[full] = _Template(tuple(operands), written, result)
            return result
        nodes = dict(zip(known.operands, operands, strict=True))

        def mine(node: Any) -> Any:
            # What is neither read nor written by a step is there for all of them: a constant of this rank.
            return nodes.get(node, node) if isinstance(node, fx.Node) else node

        for node, is_named in known.written:
            args, kwargs = fx.map_arg((node.args, node.kwargs), mine)
            own = name if is_named else None
            nodes[node] = made = self._emit.write(node.target, args, kwargs, node.meta["val"], name=own)
            made.meta.update((key, node.meta[key]) for key in OF_NODES if key in node.meta)
        return map_values(known.result, mine)
