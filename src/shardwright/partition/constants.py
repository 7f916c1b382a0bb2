"""Constants that differ by rank (where a slice starts): inputs of the program, so that all ranks share its code."""

import re
from collections.abc import Sequence

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from shardwright.partition.emit import Emitter
from shardwright.program.program import Input, RankConstant, Weight


class RankConstants:
    """The constants of one rank's program on one axis. ``inputs``: those the program has already."""

    def __init__(self, emit: Emitter, inputs: Sequence[Input], axis: str, rank: int, device: torch.device) -> None:
        self._emit, self._axis, self._rank, self._device = emit, axis, rank, device
        self._user = frozenset(item.name for item in inputs if item.kind == InputKind.USER_INPUT)
        self._made: dict[tuple[tuple[float, ...], torch.dtype], tuple[str, torch.Tensor, fx.Node]] = {}

    def node(self, per_rank: tuple[float, ...], dtype: torch.dtype) -> fx.Node:
        """A placeholder for this rank's entry of ``per_rank``, a 0-d tensor, made once for equal numbers."""
        key = (per_rank, dtype)
        if key not in self._made:
            name = f"_rank_value_{len(self._made)}_{self._axis}"
            graph = self._emit.graph
            # Before the user's inputs, as exported programs have it.
            first = next((n for n in graph.nodes if n.op != "placeholder" or n.name in self._user), None)
            with graph.inserting_before(first):
                # A part of a split axis has a dot in its name, which no argument of a function can have.
                label = re.sub(r"\W", "_", f"c{name}")
                node = graph.create_node("placeholder", label, name=label)
            node.meta = {"val": self._emit.fake((), dtype, self._device)}
            tensor = torch.tensor(per_rank[self._rank], dtype=dtype)
            self._made[key] = (name, tensor if self._device.type == "meta" else tensor.to(self._device), node)
        return self._made[key][2]

    def requested(self) -> list[tuple[tuple[float, ...], torch.dtype]]:
        """The numbers of all ranks that were requested, and their dtype."""
        return list(self._made)

    def put_last(self, per_rank: tuple[float, ...], dtype: torch.dtype) -> None:
        """Make a constant's placeholder the last one, as a subgraph has what is added to its inputs."""
        node = self.node(per_rank, dtype)
        last = [other for other in self._emit.graph.nodes if other.op == "placeholder"][-1]
        if last is not node:
            last.append(node)

    def inputs(self) -> dict[str, Input]:
        """The inputs made, by placeholder name."""
        return {n.name: Input(n.name, InputKind.CONSTANT_TENSOR, name, None) for name, _, n in self._made.values()}

    def weights(self) -> dict[str, Weight]:
        """Their values, by name."""
        return {
            name: RankConstant(tensor, axis=self._axis, values=values)
            for (values, _), (name, tensor, _) in self._made.items()
        }
