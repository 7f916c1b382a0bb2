"""Higher-order operators: graphs that a call runs (the branches of a `cond`, the body of a loop), cut inside.

The rule of such a call is read off the operators inside. Dims that their factors link, within a subgraph and from round
to round of a loop, are one *class*. A class may be cut when every operator inside runs on the pieces as they are, so
that nothing is communicated. Subgraphs that hold layers of their own communicate inside: see `assign.inside`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from shardwright.assign.assignment import Assignment
from shardwright.assign.bonds import Bonds
from shardwright.assign.problem import Solution
from shardwright.assign.rebase import call_of_step, rule_of_call
from shardwright.assign.steps import Step, StepKind, Steps, build_steps
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Shard
from shardwright.layout.sizes import Size
from shardwright.program.nodes import higher_order_name, subgraph_of
from shardwright.program.program import Input, Output, Program
from shardwright.rules.call import leaves, map_values, operand_nodes, tensor_meta
from shardwright.rules.rule import Dims, Rule, Strategy, Term, strategy_for, whole_strategy

PortDim = tuple[Any, ...]
"""A dim or a factor: ("operand", i, dim) and ("result", i, dim) of the call; (subgraph, value, dim) and (subgraph,
step, factor name) inside."""


@dataclass(frozen=True, slots=True)
class Port:
    """What a subgraph's input or output is outside: an operand or a result of the call.

    ``skip``: how many of its leading dims the subgraph does not see (the one a loop runs along).
    """

    side: str
    index: int
    skip: int = 0

    def dim(self, dim: int) -> PortDim:
        """The dim outside of a dim inside."""
        return (self.side, self.index, dim + self.skip)


@dataclass(frozen=True)
class Subgraph:
    """One graph that a call runs: attribute ``name``, argument number ``position``.

    ``inputs``: its placeholders' ports, None for numbers. ``outputs``: every output's ports: none where it is not a
    tensor, two where it is carried to the next round.
    """

    name: str
    position: int
    module: fx.GraphModule
    inputs: tuple[Port | None, ...]
    outputs: tuple[tuple[Port, ...], ...]


@dataclass(frozen=True)
class SubgraphCall:
    """The subgraphs of a call. ``ties``: dims outside that have one layout. ``fixed``: dims outside that stay whole."""

    subgraphs: tuple[Subgraph, ...]
    ties: tuple[tuple[PortDim, PortDim], ...] = ()
    fixed: tuple[PortDim, ...] = ()


@dataclass
class CutSubgraphs:
    """A call's subgraphs, read: their steps, rules, and the class of every dim and factor.

    ``rule``: that of the call; its factors are the classes.
    """

    call: SubgraphCall
    programs: list[Program]
    steps: list[Steps]
    rules: list[list[Rule | None]]
    classes: dict[PortDim, str] = field(default_factory=dict)
    rule: Rule | None = None

    def strategies(self, number: int, name: str, cut: Cut) -> list[Strategy | None]:
        """The strategy of every step of subgraph ``number`` when class ``name`` is cut so.

        Raises ValueError when one of them would have to communicate.
        """
        return [self._strategy(number, step, name, cut) for step in self.steps[number].items]

    def assignment(self, number: int, strategy: Strategy) -> Assignment:
        """What the call's strategy means in subgraph ``number``, as an assignment of its own."""
        ((name, cut),) = strategy.cuts
        steps, strategies = self.steps[number], self.strategies(number, name, cut)
        return Assignment(
            program=self.programs[number],
            steps=steps,
            strategies=strategies,
            rules=self.rules[number],
            calls=[call_of_step(step) for step in steps.items],
            layouts={s.node.name: strategies[s.index].results[0] for s in steps.items if s.kind is StepKind.INPUT},  # type: ignore[union-attr]
            fallbacks=[],
            solution=Solution([], 0.0, 0.0, 0.0),
        )

    def _strategy(self, number: int, step: Step, name: str, cut: Cut) -> Strategy | None:
        steps = self.steps[number]
        reads = tuple(
            self._layout(number, value, steps.items[value[0]].vals[value[1]], name, cut) for value in step.reads
        )
        results = tuple(
            self._layout(number, (step.index, i), val, name, cut) if val is not None else REPLICATE
            for i, val in enumerate(step.vals)
        )
        if step.kind is StepKind.PLAIN:
            return None
        if step.kind is StepKind.SIZES:
            return Strategy((), reads, ())
        if step.kind is not StepKind.CALL or not step.vals:
            return Strategy((), reads, results)
        rule = self.rules[number][step.index]
        if rule is None:
            found: Strategy | None = Strategy((), (REPLICATE,) * len(reads), (REPLICATE,) * len(results))
        else:
            cuts = {f: cut for f in rule.sizes if self.classes.get((number, step.index, f)) == name}
            found = strategy_for(rule, cuts) if cuts else whole_strategy(rule)
        if found is None or found.results != results or _read(step, found.operands) != _read(step, reads):
            raise ValueError(f"{step.node.name} would communicate")
        return found

    def _layout(self, number: int, value: tuple[int, int], val: torch.Tensor, name: str, cut: Cut) -> Layout:
        dims = [d for d in range(val.dim()) if self.classes.get((number, value, d)) == name]
        if len(dims) > 1:
            raise ValueError("one tensor would be cut on two dims")
        return Shard(dims[0], cut) if dims else REPLICATE


def _read(step: Step, layouts: Sequence[Layout]) -> list[Layout]:
    """The layouts of the operands whose values a step reads."""
    return [layout for number, layout in enumerate(layouts) if number not in step.unread]


def is_subgraph_call(node: fx.Node) -> bool:
    """Whether a node calls a higher-order operator that can be cut inside, in the form that exported programs have."""
    return higher_order_name(node) in _READERS and not node.kwargs


def subgraph_rule(step: Step) -> Rule | None:
    """The rule of a step that calls subgraphs; None for other steps."""
    return read_subgraphs(step.node).rule if step.kind is StepKind.CALL and is_subgraph_call(step.node) else None


def subgraph_call(node: fx.Node) -> SubgraphCall:
    """Which subgraphs a call runs and how their inputs and outputs hang together."""
    operands = operand_nodes(node)
    numbers = iter(range(len(operands)))
    numbered = map_values(
        tuple(node.args), lambda leaf: next(numbers) if isinstance(leaf, fx.Node) and leaf in operands else None
    )
    return _READERS[higher_order_name(node)](node, numbered)


def read_subgraphs(node: fx.Node) -> CutSubgraphs:
    """The subgraphs of a call with their classes of dims, and the rule that follows."""
    call = subgraph_call(node)
    programs = [_program(subgraph) for subgraph in call.subgraphs]
    steps = [build_steps(program)[0] for program in programs]
    rules = [[_rule(step) for step in found.items] for found in steps]
    found = CutSubgraphs(call, programs, steps, rules)
    _classify(found, node)
    return found


def _program(subgraph: Subgraph) -> Program:
    graph = subgraph.module.graph
    inputs = tuple(Input(n.name, InputKind.USER_INPUT, None) for n in graph.nodes if n.op == "placeholder")
    outputs = tuple(Output(OutputKind.USER_OUTPUT, None, None) for _ in subgraph.outputs)
    return Program(None, graph, inputs, outputs, {}, subgraph.module)  # type: ignore[arg-type]


def _rule(step: Step) -> Rule | None:
    if step.kind is not StepKind.CALL or not step.vals:
        return None
    call = call_of_step(step)
    return rule_of_call(call) if call is not None else subgraph_rule(step)


class _Classes:
    """Dims and factors that go together; ``whole``: those that may not be cut."""

    def __init__(self) -> None:
        self.bonds: Bonds[PortDim] = Bonds()
        self.whole: set[PortDim] = set()

    def join(self, one: PortDim, other: PortDim) -> None:
        first, second = self.bonds.root(one), self.bonds.root(other)
        self.bonds.join((first, second))
        if second in self.whole:
            self.whole.add(first)

    def fix(self, place: PortDim) -> None:
        self.whole.add(self.bonds.root(place))

    def is_whole(self, place: PortDim) -> bool:
        return self.bonds.root(place) in self.whole


def _classify(found: CutSubgraphs, node: fx.Node) -> None:
    classes = _Classes()
    for one, other in found.call.ties:
        classes.join(one, other)
    for number in range(len(found.programs)):
        _link_ports(found, number, classes)
        for step in found.steps[number].items:
            _link_step(found, number, step, classes)
    for place in found.call.fixed:
        classes.fix(place)
    operands = [tensor_meta(source.meta["val"]) for source in operand_nodes(node)]
    results = [tensor_meta(v) if isinstance(v, torch.Tensor) else None for v in leaves(node.meta["val"])]
    roots: dict[PortDim, str] = {}
    sizes: dict[str, Size] = {}
    fixed = set()

    def dims(side: str, index: int, shape: Sequence[Size]) -> Dims:
        terms = []
        for dim, size in enumerate(shape):
            root = classes.bonds.root((side, index, dim))
            name = roots.setdefault(root, f"n{len(roots)}")
            sizes.setdefault(name, size)
            if classes.is_whole(root) or not isinstance(size, int) or sizes[name] != size:
                fixed.add(name)
            terms.append(Term((name,)))
        return tuple(terms)

    sides = tuple(dims("operand", i, meta.shape) for i, meta in enumerate(operands))
    made = tuple(None if meta is None else dims("result", i, meta.shape) for i, meta in enumerate(results))
    found.classes = {
        place: roots[root] for place in classes.bonds.members() if (root := classes.bonds.root(place)) in roots
    }
    fixed |= {name for name in sizes if name not in fixed and not _may_cut(found, name, sizes[name])}
    # Nothing reduces inside, so a result without the class that is cut is computed whole.
    independent = frozenset(range(len(made)))
    found.rule = Rule(sides, made, sizes, fixed=frozenset(fixed), independent=independent)


def _may_cut(found: CutSubgraphs, name: str, size: Size) -> bool:
    assert isinstance(size, int), "symbolic dims stay whole"
    try:
        for number in range(len(found.programs)):
            found.strategies(number, name, Cut.even(size, 2))
    except ValueError:
        return False
    return True


def _link_ports(found: CutSubgraphs, number: int, classes: _Classes) -> None:
    subgraph, steps = found.call.subgraphs[number], found.steps[number]
    placeholders = [n for n in subgraph.module.graph.nodes if n.op == "placeholder"]
    for port, placeholder in zip(subgraph.inputs, placeholders, strict=True):
        value = steps.value_of.get(placeholder)
        for dim in range(placeholder.meta["val"].dim() if value is not None else 0):
            if port is None:
                classes.fix((number, value, dim))
            else:
                classes.join(port.dim(dim), (number, value, dim))
    for step in steps.items:
        if step.kind is StepKind.OUTPUT:
            value = step.reads[0]
            ports = subgraph.outputs[step.output]
            for dim in range(steps.items[value[0]].vals[value[1]].dim()):
                for port in ports:
                    classes.join(port.dim(dim), (number, value, dim))
                if not ports:
                    classes.fix((number, value, dim))


def _link_step(found: CutSubgraphs, number: int, step: Step, classes: _Classes) -> None:
    """Join the dims that carry one factor; fix what a rule cannot cut without communicating."""
    if step.kind is not StepKind.CALL:
        if step.kind is StepKind.INPUT and step.node.op == "get_attr":
            for dim in range(step.vals[0].dim()):
                classes.fix((number, (step.index, 0), dim))
        return
    rule = found.rules[number][step.index]
    read = [value for i, value in enumerate(step.reads) if i not in step.unread]
    values = [*read, *((step.index, i) for i, v in enumerate(step.vals) if v is not None)]
    if rule is None:
        for value in values:
            for dim in range(found.steps[number].items[value[0]].vals[value[1]].dim()):
                classes.fix((number, value, dim))
        return
    sides = [one for i, one in enumerate(zip(step.reads, rule.operands, strict=True)) if i not in step.unread]
    sides += [((step.index, i), dims) for i, dims in enumerate(rule.results) if dims is not None]
    joint = {name for group in rule.joint for name in group}
    for name in rule.sizes:
        if name in rule.fixed or name in rule.reduces or name in joint:
            classes.fix((number, step.index, name))
    for value, dims in sides:
        for dim, term in enumerate(dims):
            names = [name for name in term.factors if rule.sizes[name] != 1]
            if len(names) == 1 and not term.is_sum:
                classes.join((number, value, dim), (number, step.index, names[0]))
                continue
            classes.fix((number, value, dim))
            for name in names:
                classes.fix((number, step.index, name))


def _numbers(given: Any) -> list[int | None]:
    """The operand numbers among a subgraph's arguments; None for those that are not tensors."""
    return list(leaves(given))


def _subgraph(
    node: fx.Node, position: int, inputs: Sequence[Port | None], outputs: Sequence[Sequence[Port]]
) -> Subgraph:
    getter: Any = node.args[position]
    module = subgraph_of(getter)
    assert module is not None, "a subgraph is called through its get_attr node"
    return Subgraph(str(getter.target), position, module, tuple(inputs), tuple(map(tuple, outputs)))


def _ports(numbers: Sequence[int | None], skip: int = 0) -> list[Port | None]:
    return [None if number is None else Port("operand", number, skip) for number in numbers]


def _result_ports(node: fx.Node, skip: int = 0) -> Iterator[tuple[Port, ...]]:
    for index, value in enumerate(leaves(node.meta["val"])):
        yield (Port("result", index, skip),) if isinstance(value, torch.Tensor) else ()


def _leading(ports: Sequence[Port | None]) -> list[PortDim]:
    return [(port.side, port.index, 0) for port in ports if port is not None and port.skip]


def _cond(node: fx.Node, args: Any) -> SubgraphCall:
    """``cond(predicate, true, false, operands)``: both branches see all operands and give all results."""
    inputs, outputs = _ports(_numbers(args[3])), list(_result_ports(node))
    return SubgraphCall((_subgraph(node, 1, inputs, outputs), _subgraph(node, 2, inputs, outputs)))


def _while_loop(node: fx.Node, args: Any, skip: int = 0) -> SubgraphCall:
    """``while_loop(condition, body, carried, further)``: what is carried keeps its layout from round to round."""
    carried, further = _ports(_numbers(args[2])), _ports(_numbers(args[3]))
    results = list(_result_ports(node, skip))
    body = [(*result, carry) if carry is not None else () for result, carry in zip(results, carried, strict=True)]
    inputs = [*carried, *further]
    subgraphs = (_subgraph(node, 0, inputs, [()]), _subgraph(node, 1, inputs, body))
    return SubgraphCall(subgraphs, fixed=tuple(_leading([port for ports in results for port in ports])))


def _stacking_while_loop(node: fx.Node, args: Any) -> SubgraphCall:
    """A `while_loop` whose results are all rounds' values, stacked."""
    return _while_loop(node, args, skip=1)


def _scan(node: fx.Node, args: Any) -> SubgraphCall:
    """``scan(combine, initial, along, further)``: rounds are taken along dim 0, one after the other."""
    carried, along, further = _ports(_numbers(args[1])), _ports(_numbers(args[2]), 1), _ports(_numbers(args[3]))
    results = list(_result_ports(node))
    outputs = [(*result, carry) if carry is not None else () for result, carry in zip(results, carried, strict=False)]
    stacked = [tuple(Port("result", p.index, 1) for p in ports) for ports in results[len(carried) :]]
    fixed = _leading([*along, *(port for ports in stacked for port in ports)])
    return SubgraphCall((_subgraph(node, 0, [*carried, *along, *further], [*outputs, *stacked]),), fixed=tuple(fixed))


def _map(node: fx.Node, args: Any) -> SubgraphCall:
    """``map_impl(body, along, further)``: rounds along dim 0 do not know of each other, so dim 0 may be cut."""
    along, further = _ports(_numbers(args[1]), 1), _ports(_numbers(args[2]))
    outputs = list(_result_ports(node, 1))
    rounds = _leading([*along, *(port for ports in outputs for port in ports)])
    ties = tuple((rounds[0], other) for other in rounds[1:])
    return SubgraphCall((_subgraph(node, 0, [*along, *further], outputs),), ties=ties)


_READERS: Mapping[str, Callable[[fx.Node, Any], SubgraphCall]] = {
    "cond": _cond,
    "map_impl": _map,
    "scan": _scan,
    "while_loop": _while_loop,
    "while_loop_stack_output": _stacking_while_loop,
}
