"""A program with one layer for many that are alike: compiled in the time of a few layers, whatever the depth.

Of every stack of layers its first three stay, and the third stands for all that follow it in the stack. What is read of
those is read of it, and what they return is left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import fx

from shardwright.program.duplicate import own_holder
from shardwright.program.layers import Layer, Stack
from shardwright.program.nodes import copy_node
from shardwright.program.program import Program

KEPT = 3
"""How many layers of a stack stay. The first has all ranks share what is written for the first that reads it, so that
the second lies otherwise behind it than the third behind the second.
"""

LEAST_LEFT_OUT = 4
"""A program that has fewer layers to leave out is compiled as it stands."""

LEAST_MATRICES = 2
"""Layers with fewer weights of two dims or more need not be cut alike: see `shardwright.assign.folding`."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """A stack whose layers from ``kept`` on are one: it stands for the layers ``left_out`` besides itself.

    ``before``: the layer before it, which is alike and stays too.
    """

    before: Layer
    kept: Layer
    left_out: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Shallow:
    """A program without the layers that others stand for, and the ``deep`` one.

    ``outputs``: which of the deep one's it returns, in order.
    """

    program: Program
    deep: Program
    stacks: tuple[Shortened, ...]
    outputs: tuple[int, ...]

    def stands_for(self) -> Mapping[str, str]:
        """For each placeholder that is left out, by name, the one that stands for it."""
        return self.deep.once(("stands for", *(one.kept.module for one in self.stacks)), self._stands_for)

    def _stands_for(self) -> dict[str, str]:
        pairs = chain.from_iterable(map(_pairs, self.stacks))
        return {out.name: kept.name for out, kept in pairs if out.op == "placeholder"}


def shortened(program: Program, stacks: Sequence[Stack]) -> list[Shortened]:
    """The stacks that are worth shortening."""
    state = {item.name: item.target for item in program.inputs if item.is_state and item.target is not None}
    names = Counter(id(weight.tensor) for weight in program.weights.values())
    found = []
    for stack in stacks:
        if len(stack.layers) < KEPT + LEAST_LEFT_OUT:
            continue
        before, kept, *left_out = stack.layers[KEPT - 2 :]
        own = [(node, state[node.name]) for node in kept.own if node.name in state]
        matrices = sum(target.startswith(f"{kept.module}.") and _ndim(node) > 1 for node, target in own)
        weights = (state[node.name] for layer in stack.layers for node in layer.own if node.name in state)
        # A tensor of two names is held once.
        is_tied = any(names[id(program.weights[target].tensor)] > 1 for target in weights)
        if matrices >= LEAST_MATRICES and not is_tied:
            found.append(Shortened(before, kept, tuple(left_out)))
    return found


def _ndim(node: fx.Node) -> int:
    val = node.meta.get("val")
    return val.dim() if isinstance(val, torch.Tensor) else 0


def make_shallow(program: Program, stacks: Sequence[Shortened]) -> Shallow:
    """The program with these stacks shortened; its nodes keep their names."""
    stands_for = dict(chain.from_iterable(map(_pairs, stacks)))
    graph = fx.Graph(owner := own_holder(program.graph, program.owner))  # type: ignore[arg-type]
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            break
        if node in stands_for:
            copies[node] = copies[stands_for[node]]
        else:
            copies[node] = copy_node(graph, node, copies)
    values = program.output_values()
    outputs = tuple(number for number, value in enumerate(values) if value not in stands_for)
    returned = tuple(fx.map_arg(values[number], copies.__getitem__) for number in outputs)
    graph.output(returned).meta.update(program.graph.output_node().meta)
    names = {node.name for node in copies.values()}
    inputs = tuple(item for item in program.inputs if item.name in names)
    held = {item.target for item in program.inputs if item not in inputs}
    made = replace(
        program,
        graph=graph,
        inputs=inputs,
        outputs=tuple(program.outputs[number] for number in outputs),
        weights={target: weight for target, weight in program.weights.items() if target not in held},
        owner=owner,
        members=_members(stacks),
    )
    return Shallow(made, program, tuple(stacks), outputs)


def _pairs(stack: Shortened) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Every node that is left out, with the one that stands for it."""
    for layer in stack.left_out:
        yield from zip((*layer.nodes, *layer.own), (*stack.kept.nodes, *stack.kept.own), strict=True)


def _members(stacks: Sequence[Shortened]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for one in stacks:
        names = (one.kept.module, *(node.name for node in one.kept.own))
        found.update(dict.fromkeys(names, 1 + len(one.left_out)))
    return found
