"""Subgraphs that communicate inside: branches and loop bodies that are programs with layouts of their own.

All ranks take the same branch and the same number of rounds, as what decides that is whole; so collectives may stand in
a subgraph. Once the layouts of a call's operands and results are known, each subgraph is assigned as a program that is
pinned so. What is tried: weights as the plan cuts them, other operands whole or cut as one of their candidates says,
and results whole, or partial where a subgraph ends in a sum that may as well be taken once behind the call.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from shardwright.assign.assignment import Assignment
from shardwright.assign.higher_order import CutSubgraphs, Port, Subgraph
from shardwright.assign.steps import StepKind
from shardwright.errors import AssignmentError
from shardwright.layout.layout import REPLICATE, Layout, Partial, Shard
from shardwright.program.nodes import higher_order_name
from shardwright.program.program import Input, Program, Weight
from shardwright.rules.rule import Strategy

PARAMETER, USER_INPUT = InputKind.PARAMETER, InputKind.USER_INPUT

NUM_ROUNDS = 8
"""How often a loop's body is taken to run, where nothing says how often."""

LATER = 1.05
"""What every branch communicates may as well be behind the call, once: a little better, where it costs the same."""

MAX_TRIED = 12
"""At most so many layouts of a call's operands are tried."""

Assign = Callable[[CutSubgraphs, int, Mapping[str, Layout], Mapping[int, Layout], frozenset[str]], Assignment]
"""Assigns one subgraph (its number) under the layouts of its inputs, by name, and outputs, by position.

The names of weights among the inputs come last: they are not to be gathered.
"""


@dataclass(frozen=True)
class CallLayouts:
    """The layouts of a call's operands and results; ``weights``: the operands that are weights."""

    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]
    weights: frozenset[int] = frozenset()

    @property
    def strategy(self) -> Strategy:
        """The strategy of the call."""
        return Strategy((), self.operands, self.results)

    def of(self, ports: Sequence[Port]) -> Layout | None:
        """The layout inside of what these ports are outside; None where a subgraph cannot have it."""
        found = {_inside(self._layout(port), port.skip) for port in ports} or {REPLICATE}
        return next(iter(found)) if len(found) == 1 else None

    def _layout(self, port: Port) -> Layout:
        return (self.operands if port.side == "operand" else self.results)[port.index]


def _inside(layout: Layout, skip: int) -> Layout | None:
    if not isinstance(layout, Shard):
        return layout
    return Shard(layout.dim - skip, layout.cut) if layout.dim >= skip else None


def assign_inside(found: CutSubgraphs, sides: CallLayouts, assign: Assign) -> list[Assignment] | None:
    """Every subgraph's assignment; None where one cannot hold these layouts."""
    made = []
    for number, subgraph in enumerate(found.call.subgraphs):
        inputs: dict[str, Layout] = {}
        outputs: dict[int, Layout] = {}
        weights = set()
        for port, node in zip(subgraph.inputs, _placeholders(subgraph), strict=True):
            layout = sides.of([port] if port is not None else [])
            if layout is None:
                return None
            inputs[node.name] = layout
            if port is not None and port.side == "operand" and port.index in sides.weights:
                weights.add(node.name)
        for position, ports in enumerate(subgraph.outputs):
            layout = sides.of(ports)
            if layout is None:
                return None
            outputs[position] = layout
        try:
            made.append(assign(found, number, inputs, outputs, frozenset(weights)))
        except AssignmentError:
            return None
    return made


def cuts_inside(
    found: CutSubgraphs, weights: frozenset[int], solve: Callable[[Program], Assignment]
) -> dict[int, Shard]:
    """How subgraphs would have those operands cut that are weights: as the first that reads one has it by itself."""
    cuts: dict[int, Shard] = {}
    for subgraph, program in zip(found.call.subgraphs, found.programs, strict=True):
        nodes = _placeholders(subgraph)
        ports = {
            node.name: port.index
            for port, node in zip(subgraph.inputs, nodes, strict=True)
            if port is not None and port.index in weights and not port.skip and node.users
        }
        if not ports.keys() - {name for name, index in ports.items() if index in cuts}:
            continue
        inputs = tuple(Input(n.name, PARAMETER if n.name in ports else USER_INPUT, n.name) for n in nodes)
        held = {node.name: Weight(node.meta["val"]) for node in nodes if node.name in ports}
        layouts = solve(replace(program, inputs=inputs, weights=held)).layouts
        for name, index in ports.items():
            if isinstance(layout := layouts.get(name), Shard):
                cuts.setdefault(index, layout)
    return cuts


def _placeholders(subgraph: Subgraph) -> list[fx.Node]:
    return [node for node in subgraph.module.graph.nodes if node.op == "placeholder"]


def ways_inside(
    node: fx.Node,
    found: CutSubgraphs,
    choices: Sequence[Sequence[Layout]],
    weights: frozenset[int],
    vals: Sequence[Any],
    assign: Assign,
) -> Iterator[tuple[Strategy, float]]:
    """Strategies of a call and the time of the collectives inside, in microseconds.

    ``choices``: the layouts of every operand that are worth trying; ``vals``: the call's results.
    """
    for operands in itertools.islice(itertools.product(*choices), MAX_TRIED):
        sides = CallLayouts(operands, (REPLICATE,) * len(vals), weights)
        made = assign_inside(found, _carried(found, sides), assign)
        if made is None:
            continue
        sides = _carried(found, sides)
        yield sides.strategy, _inside_us(node, made)
        summed = _summed_last(found, made, vals)
        if summed:
            results = tuple(Partial() if i in summed else one for i, one in enumerate(sides.results))
            sides = CallLayouts(operands, results, weights)
            made = assign_inside(found, sides, assign)
            if made is not None:
                yield sides.strategy, _inside_us(node, made)


def _carried(found: CutSubgraphs, sides: CallLayouts) -> CallLayouts:
    """The same with what a loop carries in the layout that it had before the first round."""
    results = list(sides.results)
    for subgraph in found.call.subgraphs:
        for ports in subgraph.outputs:
            carried = [sides.operands[port.index] for port in ports if port.side == "operand"]
            for port in ports:
                if carried and port.side == "result":
                    results[port.index] = _outside(carried[0], port.skip)
    return CallLayouts(sides.operands, tuple(results), sides.weights)


def _outside(layout: Layout, skip: int) -> Layout:
    return Shard(layout.dim + skip, layout.cut) if isinstance(layout, Shard) else layout


def _summed_last(found: CutSubgraphs, made: Sequence[Assignment], vals: Sequence[Any]) -> set[int]:
    """The results that some subgraph makes by a sum right before it ends, and that no round needs before the next."""
    summed = set()
    for subgraph, assignment in zip(found.call.subgraphs, made, strict=True):
        for step in assignment.steps.items:
            if step.kind is not StepKind.OUTPUT:
                continue
            ports = subgraph.outputs[step.output]
            maker = assignment.strategies[step.reads[0][0]]
            if maker is None or any(port.side == "operand" for port in ports):
                continue
            if maker.results[step.reads[0][1]] == Partial():
                summed |= {port.index for port in ports}
    return {i for i in summed if isinstance(vals[i], torch.Tensor) and vals[i].is_floating_point()}


def _inside_us(node: fx.Node, made: Sequence[Assignment]) -> float:
    """One branch's collectives, or those of all rounds of a loop."""
    communication = [assignment.solution.communication_us for assignment in made]
    return LATER * max(communication) if higher_order_name(node) == "cond" else NUM_ROUNDS * sum(communication)
