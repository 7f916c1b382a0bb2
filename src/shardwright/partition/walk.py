"""One rank's way through a program: for each step, operands as its strategy wants them, then the operator."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step, StepKind, Value
from shardwright.errors import RuleError, ShardwrightError
from shardwright.layout.layout import REPLICATE, Layout, Shard
from shardwright.partition.causes import Causes
from shardwright.partition.constants import RankConstants
from shardwright.partition.emit import Emitter, Place, facts_of
from shardwright.partition.graph_local import GraphLocal
from shardwright.partition.memory import strides, with_strides_of
from shardwright.partition.redistribute import piece_sizes, redistribute
from shardwright.partition.repeats import Moved, Named, Repeats
from shardwright.partition.routes import route, wanted_whole
from shardwright.partition.stand_in import stand_in, tells_sizes, whole_size
from shardwright.partition.subgraphs import (
    empty_results,
    has_no_share,
    write_flex_attention,
    write_subgraph_call,
)
from shardwright.partition.templates import Templates
from shardwright.program.collectives import COLLECTIVES
from shardwright.program.duplicate import own_holder
from shardwright.program.nodes import BACKWARD_STACK, RANGE, add_node, describe_node, val_of
from shardwright.program.program import Program
from shardwright.program.torch_private import has_schema
from shardwright.rules.call import bind_arguments, bind_call, leaves, map_values
from shardwright.rules.local import localize
from shardwright.rules.metadata import DTYPE
from shardwright.rules.operators.flex import is_flex_attention
from shardwright.rules.rule import Rule, Strategy

_KEPT_META = (
    "nn_module_stack",
    BACKWARD_STACK,
    "stack_trace",
    "torch_fn",
    "source_fn_stack",
    "custom",
    "from_node",
    "collective",
)
_MOVED_META = tuple(key for key in _KEPT_META if key not in ("torch_fn", "collective"))


class Walk:
    """One rank's way through a program, or through a graph that a higher-order operator calls."""

    def __init__(
        self, program: Program, assignment: Assignment, axis: str, rank: int, plan_keys: Mapping[str, str]
    ) -> None:
        self.program, self.assignment, self.axis, self.rank = program, assignment, axis, rank
        self.owner = own_holder(program.graph, program.owner)
        self.emit = Emitter(self.owner, program.fake_mode)
        self.templates = Templates(self.emit)
        self.env: dict[fx.Node, fx.Node] = {}
        self.made: dict[Value, dict[Layout, fx.Node]] = {}
        self.origins: dict[str, tuple[str, tuple[Layout, ...]]] = {}
        self.notes: list[Named | Moved] = []
        self.constants = RankConstants(self.emit, program.inputs, axis, rank, assignment.steps.device())
        targets = {item.name: item.target for item in program.inputs if item.target is not None}
        self.causes = Causes(assignment, axis, plan_keys, targets)
        self.whole_wanted = wanted_whole(assignment)

    def inside(self, program: Program, assignment: Assignment) -> "Walk":
        """This rank's way through a subgraph."""
        return Walk(program, assignment, self.axis, self.rank, {})

    def run(self) -> Program:
        """Write every step; the rank's program."""
        outputs: dict[int, fx.Node] = {}
        repeats, items = Repeats(self), self.assignment.steps.items
        for start, end in repeats.runs():
            if end - start > 1:
                repeats.write(start, end, self._write)
            elif items[start].kind is StepKind.OUTPUT:
                step = items[start]
                outputs[step.output] = self.get(step.reads[0], self._strategy(step).operands[0], step)
            else:
                self._write(items[start])
        self.emit.meta = {}
        values = [
            outputs[i] if i in outputs else self.env.get(v, v) if isinstance(v, fx.Node) else v
            for i, v in enumerate(self.program.output_values())
        ]
        output = self.emit.graph.output(tuple(values))
        output.meta = dict(self.program.graph.output_node().meta)
        output.meta["val"] = map_values(tuple(values), val_of)
        for node in [n for n in self.emit.graph.nodes if n.op == "get_attr" and not n.users]:
            self.origins.pop(node.name, None)
            self.emit.graph.erase_node(node)
        return self._finish()

    def _finish(self) -> Program:
        by_name = {i.name: i for i in self.program.inputs}
        extra = self.constants.inputs()
        renamed = {self.env[n].name: by_name[n.name] for n in self.program.placeholders()}
        inputs = tuple(
            replace(renamed[n.name], name=n.name) if n.name in renamed else extra[n.name]
            for n in self.emit.graph.nodes
            if n.op == "placeholder"
        )
        weights = {}
        for item in self.program.inputs:
            if item.is_state and item.target is not None:
                layout = self.assignment.layouts.get(item.name, REPLICATE)
                weights[item.target] = self.program.weights[item.target].with_cut(layout, self.rank)
        weights.update(self.constants.weights())
        return Program(
            self.program.source,
            self.emit.graph,
            inputs,
            self.program.outputs,
            weights,
            self.owner,
            self.origins,
            self._is_of_rank(),
            self.program.members,
        )

    def _is_of_rank(self) -> bool:
        """Whether other ranks with pieces as long have other code."""
        if self.program.is_of_rank or self.emit.is_of_rank:
            return True
        # What a slice takes elsewhere may be cut otherwise on this axis; and ranks hold graphs in modules of their own.
        return any(RANGE in node.meta for node in self.program.graph.nodes) or any(
            node.op == "get_attr" for node in self.emit.graph.nodes
        )

    def _strategy(self, step: Step) -> Strategy:
        strategy = self.assignment.strategies[step.index]
        assert strategy is not None, f"{step.node.name} has no strategy"
        return strategy

    def write_for(self, value: Value, *, is_moved: bool) -> None:
        """Have all that is written now say that it is for the step of a value, or for moving that value."""
        meta = self.assignment.steps.items[value[0]].node.meta
        self.emit.meta = {key: meta[key] for key in (_MOVED_META if is_moved else _KEPT_META) if key in meta}
        self.emit.place = Place(value, is_moved)

    def _write(self, step: Step) -> None:
        """Write one step that is no output."""
        self.write_for((step.index, 0), is_moved=False)
        try:
            self._write_kind(step)
        except ShardwrightError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise RuleError(
                f"rank {self.rank} cannot run {describe_node(step.node)} on its piece: {error}\n"
                f"  under {self._strategy(step) if self.assignment.strategies[step.index] else 'no strategy'}\n"
                "  try: pin the module 'replicate' in the plan, and report the operator"
            ) from error

    def _write_kind(self, step: Step) -> None:
        if step.kind is StepKind.INPUT:
            self._write_input(step)
        elif step.kind is StepKind.CONSTRAINT:
            wanted = self._strategy(step).operands[0]
            node = self.get(step.reads[0], wanted, step)
            self.made[(step.index, 0)] = {wanted: node}
        elif step.kind in (StepKind.PLAIN, StepKind.SIZES):
            self._write_plain(step)
        elif not step.vals:
            self._write_reader(step)
        else:
            self._write_call(step)

    def _write_input(self, step: Step) -> None:
        node, layout = step.node, self._strategy(step).results[0]
        if node.op == "get_attr":
            local = self.emit.graph.get_attr(str(node.target))
            local.meta = dict(node.meta)
        else:
            local = self._placeholder(node)
        whole = step.vals[0]
        if isinstance(layout, Shard):
            shape = piece_sizes(whole, layout, self.rank)
            local.meta["val"] = self.emit.fake(shape, whole.dtype, whole.device)
            local.meta.pop("tensor_meta", None)
        self._keep(step, node, {(step.index, 0): layout}, [local])

    def _placeholder(self, node: fx.Node) -> fx.Node:
        """A copy of a placeholder under its own name, also where that is a Python name (``input``)."""
        local = add_node(self.emit.graph, "placeholder", str(node.target), node.args, {}, node.name)
        if local.name != node.name:
            local.name = node.name
        local.meta = dict(node.meta)
        return local

    def _write_plain(self, step: Step) -> None:
        node = step.node
        if node.op == "placeholder":
            self.env[node] = self._placeholder(node)
            return
        if node.op == "get_attr":
            local = self.emit.graph.get_attr(str(node.target))
            local.meta = dict(node.meta)
            self.env[node] = local
            return
        reads = dict(zip(step.sources, step.reads, strict=True))
        layouts = {source: self._any(value) for source, value in reads.items()}
        if node.target is torch.ops.aten.sym_size.int:
            self.env[node] = self._size(node, *self._sized(reads[node.args[0]], step))  # type: ignore[index]
            return
        if node.target is torch.ops.aten._assert_tensor_metadata.default and not _asserts_sizes(node):
            return
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: layouts[n][1] if n in layouts else self.env[n])
        self.env[node] = self.emit.write(node.target, args, kwargs, node.meta.get("val"), name=node.name)

    def _write_reader(self, step: Step) -> None:
        """A call that makes a number of a tensor's data: of the whole tensor, on every rank."""
        node = step.node
        whole = {s: self.get(v, REPLICATE, step) for s, v in zip(step.sources, step.reads, strict=True)}
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: whole[n] if n in whole else self.env[n])
        self.env[node] = self.emit.write(node.target, args, kwargs, node.meta.get("val"), name=node.name)

    def _size(self, node: fx.Node, layout: Layout, local: fx.Node) -> fx.Node:
        """The global size of a dim, from a local tensor."""
        dim = int(node.args[1]) % local.meta["val"].dim()  # type: ignore[arg-type]
        size = self.emit.write(node.target, (local, dim), {}, local.meta["val"].shape[dim], name=node.name)
        return whole_size(self.emit, size, layout, dim, self.rank)

    def metadata(self, value: Value, layout: Layout, what: str, reader: Step) -> fx.Node:
        """A tensor for a reader that asks only for a value's dtype, or for its sizes in a layout: nothing is moved."""
        if what == DTYPE:
            return self._any(value)[1]
        held, local = self._sized(value, reader)
        made = self.made[value].items()
        is_cut = isinstance(layout, Shard)
        fits = (node for one, node in made if one == layout or not (is_cut or isinstance(one, Shard)))
        whole = self.assignment.steps.items[value[0]].vals[value[1]]
        return next(fits, None) or stand_in(self.emit, local, held, layout, whole, self.rank)

    def _sized(self, value: Value, reader: Step) -> tuple[Layout, fx.Node]:
        """A version of a value from which every rank can tell its sizes; where there is none, the whole is moved."""
        held, local = self._any(value)
        return (held, local) if tells_sizes(held) else (REPLICATE, self.get(value, REPLICATE, reader))

    def _any(self, value: Value) -> tuple[Layout, fx.Node]:
        """A version of a value that is there already, whole if possible."""
        made = self.made[value]
        return (REPLICATE, made[REPLICATE]) if REPLICATE in made else next(iter(made.items()))

    def _write_call(self, step: Step) -> None:
        node, strategy = step.node, self._strategy(step)
        wanted = enumerate(zip(step.reads, strategy.operands, strict=True))
        locals_ = [
            self.metadata(v, layout, step.unread[i], step) if i in step.unread else self.get(v, layout, step)
            for i, (v, layout) in wanted
        ]
        rule, call = self.assignment.rules[step.index], self.assignment.calls[step.index]
        as_it_stands = self._is_plain(strategy, step, locals_) and not (rule is not None and rule.is_written_out)
        if rule is None and not as_it_stands:
            wholes = (self.assignment.steps.items[maker].vals[result] for maker, result in step.reads)
            locals_ = [
                one if step.unread.get(i) == DTYPE else with_strides_of(self.emit, one, whole, node)
                for i, (one, whole) in enumerate(zip(locals_, wholes, strict=True))
            ]
        values = iter(locals_)
        operands = set(step.sources)

        def local(leaf: Any) -> Any:
            if not isinstance(leaf, fx.Node):
                return leaf
            return next(values) if leaf in operands else self.env[leaf]

        if rule is None and not as_it_stands and has_schema(node.target):
            args, kwargs = self._map_in_order(node, local)
            results = leaves(self.emit.open(self.emit.call(node.target, *args, name=node.name, **kwargs)))
        elif rule is None or as_it_stands:
            # Arguments are visited in the order of operands: as written, or by schema where keywords hold tensors.
            args, kwargs = self._map_in_order(node, local)
            written = self.emit.write(node.target, args, kwargs, node.meta.get("val"), name=node.name)
            results = leaves(self.emit.open(written))
        elif call is None:
            arguments = map_values(tuple(node.args), local)
            results = leaves(self._write_higher_order(step, rule, strategy, arguments, locals_))
        else:

            def write() -> Any:
                _, bound = bind_call(node.target, node.args, node.kwargs)
                arguments = {name: map_values(value, local) for name, value in bound.items()}
                return localize(GraphLocal(self, call, rule, strategy, self.rank, arguments, node.name))

            # A call and a strategy are one object for all steps of a site; sizes that are not known yet are operands
            # of another kind.
            is_alone = any(source not in operands for source in node.all_input_nodes)
            key = (id(call), id(strategy))
            results = leaves(write() if is_alone else self.templates.follow(key, locals_, node.name, write))
        layouts = {(step.index, i): layout for i, layout in enumerate(strategy.results)}
        self._keep(step, node, layouts, results)

    def _write_higher_order(
        self, step: Step, rule: Rule, strategy: Strategy, arguments: tuple[Any, ...], operands: Sequence[fx.Node]
    ) -> Any:
        if has_no_share(strategy, self.rank):
            empty = empty_results(self.emit, step, strategy, self.rank, operands)
            if empty is not None:
                return empty
        if is_flex_attention(step.node):
            return write_flex_attention(self, step, rule, strategy, arguments)
        return write_subgraph_call(self, step, strategy, arguments)

    def _map_in_order(self, node: fx.Node, local: Any) -> tuple[Any, Any]:
        if node.kwargs and has_schema(node.target):
            bound = bind_arguments(node.target, node.args, node.kwargs)
            mapped = {name: map_values(value, local) for name, value in bound.items()}
            names = list(bound)
            return tuple(mapped[n] for n in names[: len(node.args)]), {k: mapped[k] for k in node.kwargs}
        return map_values((tuple(node.args), dict(node.kwargs)), local)

    def _is_plain(self, strategy: Strategy, step: Step, locals_: Sequence[fx.Node]) -> bool:
        """Whether the original call, metadata included, serves as it stands: nothing is cut or lies otherwise."""
        if any(isinstance(layout, Shard) for layout in (*strategy.operands, *strategy.results)):
            return False
        wholes = (self.assignment.steps.items[maker].vals[result] for maker, result in step.reads)
        # What was gathered is contiguous, though the original may have been a transposed view.
        vals = (one.meta["val"] for one in locals_)
        return all(val is whole or strides(val) == strides(whole) for val, whole in zip(vals, wholes, strict=True))

    def _keep(self, step: Step, node: fx.Node, layouts: Mapping[Value, Layout], nodes: Sequence[fx.Node]) -> None:
        if node not in self.env and len(nodes) == 1:
            self.env[node] = nodes[0]
        for (value, layout), local in zip(layouts.items(), nodes, strict=True):
            self.made[value] = {layout: local}
            if isinstance(local, fx.Node):
                self.note_name(Named(local, value, len(layouts) == 1, layout))

    def get(self, value: Value, layout: Layout, reader: Step) -> fx.Node:
        """The local node that holds ``value`` in ``layout``, redistributed once and shared by all readers."""
        made = self.made[value]
        found = made.get(layout)
        if found is not None:
            return found
        for source, target in route(made, layout, by_whole=value in self.whole_wanted):
            self._redistribute(value, target, reader, source)
        return made[layout]

    def _redistribute(self, value: Value, target: Layout, reader: Step, source: Layout) -> None:
        made = self.made[value]
        maker = self.assignment.steps.items[value[0]]
        whole = maker.vals[value[1]]
        kept = self.emit.meta, self.emit.place
        self.write_for(value, is_moved=True)
        before = len(self.emit.graph.nodes)

        def write() -> fx.Node:
            return redistribute(self.emit, made[source], source, target, whole, self.axis, self.rank)

        facts = facts_of(whole)
        key = (source, target, facts)
        local = write() if facts is None else self.templates.follow(key, [made[source]], "", write)
        self.emit.meta, self.emit.place = kept
        if len(self.emit.graph.nodes) > before:
            written = list(_last(self.emit.graph, len(self.emit.graph.nodes) - before))
            for node in written:
                if node.target in COLLECTIVES:
                    self.note_move(Moved(node, value, source, target, reader.index))
        made[target] = local
        if local.name not in self.origins:
            self.note_name(Named(local, value, len(maker.vals) == 1, target))

    def note_move(self, one: Moved) -> None:
        """Note what a collective brings where, and for whom."""
        reader = self.assignment.steps.items[one.reader]
        one.node.meta["collective"] = self.causes.of(one.node, one.value, one.source, one.target, reader)
        self.notes.append(one)

    def note_name(self, one: Named) -> None:
        """Note which original value a local node holds; what earlier axes traced comes first."""
        node, local = self.assignment.steps.items[one.value[0]].node.name, one.local.name
        name = node if one.is_only else f"{node}[{one.value[1]}]"
        if not self.program.origins:
            self.origins[local] = (name, (one.layout,))
        elif name in self.program.origins:
            origin, layouts = self.program.origins[name]
            self.origins[local] = (origin, (*layouts, one.layout))
        self.notes.append(one)


def _asserts_sizes(node: fx.Node) -> bool:
    return any(value is not None for value in node.args[1:3])


def _last(graph: fx.Graph, count: int) -> list[fx.Node]:
    found: list[fx.Node] = []
    for node in reversed(graph.nodes):
        if len(found) == count:
            break
        found.append(node)
    return found[::-1]
