"""What a run of steps wrote, written again for its equals: the layers of a model, in a fraction of the time.

A *run* is what stands in a row in one numbered module (``layers.7``). What is written for it follows from its calls and
strategies, from how its steps read each other, and from the layouts in which what it reads of others is there. Where
another run agrees in all of these, its nodes are copies, each under the name and place of its own step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import fx

from shardwright.assign.steps import Step, StepKind, Value
from shardwright.layout.layout import Layout
from shardwright.partition.emit import Place
from shardwright.partition.templates import OF_NODES
from shardwright.program.nodes import module_path, numbered_module
from shardwright.rules.call import leaves

if TYPE_CHECKING:
    from shardwright.partition.walk import Walk

LEAST_STEPS = 4
"""Shorter runs take no less when they are copied."""


_REPEATED = (StepKind.CALL, StepKind.CONSTRAINT)


class Named(NamedTuple):
    """A local node that stands for a value: the only one of its step, or one of several."""

    local: fx.Node
    value: Value
    is_only: bool
    layout: Layout


class Moved(NamedTuple):
    """A collective that brings a value from one layout to another, for the step of a number."""

    node: fx.Node
    value: Value
    source: Layout
    target: Layout
    reader: int


class _Written(NamedTuple):
    """A node to write again. ``own``: the leaf of its step's own metadata that it has (-1: all of it), if any;
    ``says``: what its metadata says of itself.
    """

    node: fx.Node
    place: Place
    is_named: bool
    own: int | None
    says: Mapping[str, Any]


class _Nodes(dict[fx.Node, fx.Node]):
    """What stands for the nodes of one run in another; any other node for itself: a constant of this rank."""

    def __missing__(self, node: fx.Node) -> fx.Node:
        return node


@dataclass(slots=True)
class _Run:
    """A run as it was written. ``outside``: what it reads of others, in order; ``there``: the layouts it found of them;
    ``made``: the layouts of its own values and of those after it; ``env``: the nodes that stand for those of its steps.
    """

    start: int
    outside: Sequence[Value]
    there: Sequence[Mapping[Layout, fx.Node]]
    written: Sequence[tuple[Place, Sequence[_Written]]] = ()
    notes: Sequence[Named | Moved] = ()
    made: Mapping[Value, Mapping[Layout, fx.Node]] = field(default_factory=dict)
    env: Mapping[int, fx.Node] = field(default_factory=dict)


class Repeats:
    """The runs of one walk, by what decides what is written for them."""

    def __init__(self, walk: "Walk") -> None:
        self._walk, self._items = walk, walk.assignment.steps.items
        self._known: dict[Any, _Run] = {}

    def runs(self) -> Iterator[tuple[int, int]]:
        """All steps in order, as (first, behind the last): runs, and single steps between them."""
        start, module = 0, None
        for index, step in enumerate(self._items):
            found = numbered_module(module_path(step.node)) if step.kind in _REPEATED else None
            if found is not None and not self._may_repeat(step):
                found = None
            if found is None or found != module:
                yield from _long(start, index)
                start, module = index, found
        yield from _long(start, len(self._items))

    def write(self, start: int, end: int, write: Callable[[Step], None]) -> None:
        """Write the steps of a run: as its equal was written, or by ``write``."""
        outside: dict[Value, int] = {}
        key = self._key(start, end, outside)
        known = self._known.get(key) if key is not None else None
        if known is not None:
            _Copy(self._walk, known, start, list(outside)).write()
            return
        made, emit = self._walk.made, self._walk.emit
        run = _Run(start, list(outside), [dict(made[value]) for value in outside])
        log, notes = len(emit.log), len(self._walk.notes)
        for step in self._items[start:end]:
            write(step)
        if key is None:
            return
        written = groupby((self._remember(*one) for one in emit.log[log:]), key=lambda one: one.place)
        run.written = [(place, list(nodes)) for place, nodes in written]
        run.notes = self._walk.notes[notes:]
        values = ((step.index, i) for step in self._items[start:end] for i in range(len(step.vals)))
        # What is done later for others is none of it.
        run.made = {value: dict(made[value]) for value in (*outside, *values)}
        calls = (step for step in self._items[start:end] if step.kind is StepKind.CALL)
        run.env = {step.index: self._walk.env[step.node] for step in calls if step.node in self._walk.env}
        self._known[key] = run

    def _may_repeat(self, step: Step) -> bool:
        """Whether all that decides what is written for a step can be told: its values are tensors of known sizes."""
        if step.kind is StepKind.CALL:
            is_known = step.vals and self._walk.assignment.calls[step.index] is not None
            if not is_known or len(step.node.all_input_nodes) > len(set(step.sources)):
                return False
        return None not in map(self._walk.emit.fact, step.vals)

    def _key(self, start: int, end: int, outside: dict[Value, int]) -> Any:
        """What decides what is written for a run; None where that cannot be told. ``outside`` is filled."""
        walk, assignment = self._walk, self._walk.assignment
        parts: list[Any] = []
        for step in self._items[start:end]:
            index, node = step.index, step.node
            # Equal steps have one call, one rule and one strategy between them.
            decided = id(assignment.calls[index]), id(assignment.rules[index]), id(assignment.strategies[index])
            reads = [
                (value[0] - start, value[1]) if value[0] >= start else outside.setdefault(value, len(outside))
                for value in step.reads
            ]
            values = [((index, i) in walk.whole_wanted, self._walk.emit.fact(val)) for i, val in enumerate(step.vals)]
            parts.append((step.kind, decided, *reads, len(node.args), *node.kwargs, *values))
        nodes: dict[fx.Node, int] = {}
        for value in outside:
            made = walk.made[value]
            whole = self._items[value[0]].vals[value[1]]
            facts = [self._walk.emit.fact(one) for one in (whole, *(local.meta["val"] for local in made.values()))]
            if None in facts:
                return None
            # Values may be there as one node.
            own = [nodes.setdefault(local, len(nodes)) for local in made.values()]
            parts.append((value in walk.whole_wanted, *made, *facts, *own))
        return (end - start, *parts)

    def _remember(self, node: fx.Node, name: str | None, place: Place) -> _Written:
        step, val = self._items[place.value[0]].node, node.meta["val"]
        assert name in (None, step.name), f"{name} is written for {step.name}"
        known = None if place.is_moved else step.meta.get("val")
        own = -1 if val is known else next((i for i, one in enumerate(leaves(known)) if one is val), None)
        return _Written(
            node, place, name is not None, own, {key: node.meta[key] for key in OF_NODES if key in node.meta}
        )


class _Copy:
    """A run written as its equal was, from step ``start`` on. ``outside``: what this one reads of others."""

    def __init__(self, walk: "Walk", run: _Run, start: int, outside: Sequence[Value]) -> None:
        self.walk, self.run, self.start = walk, run, start
        self.makers = dict(zip(run.outside, outside, strict=True))
        self.nodes = _Nodes()
        for there, value in zip(run.there, outside, strict=True):
            self.nodes.update(zip(there.values(), walk.made[value].values(), strict=True))

    def write(self) -> None:
        """Write the nodes, and note what stands for what."""
        walk, items, nodes = self.walk, self.walk.assignment.steps.items, self.nodes
        mine, write = nodes.__getitem__, walk.emit.write
        for place, written in self.run.written:
            value = self._value(place.value)
            step = items[value[0]].node
            walk.write_for(value, is_moved=place.is_moved)
            for node, _, is_named, own, says in written:
                args, kwargs = fx.map_arg(node.args, mine), fx.map_arg(node.kwargs, mine) if node.kwargs else {}
                val = node.meta["val"] if own is None else _leaf(step.meta["val"], own)
                nodes[node] = made = write(node.target, args, kwargs, val, name=step.name if is_named else None)
                if says:
                    made.meta.update(says)
        for index, local in self.run.env.items():
            walk.env[items[self._index(index)].node] = mine(local)
        for value, layouts in self.run.made.items():
            walk.made[self._value(value)] = {layout: mine(local) for layout, local in layouts.items()}
        for note in self.run.notes:
            self._note(note)

    def _note(self, note: Named | Moved) -> None:
        value = self._value(note.value)
        if isinstance(note, Moved):
            self.walk.note_move(Moved(self.nodes[note.node], value, note.source, note.target, self._index(note.reader)))
            return
        is_only = note.is_only
        if note.value[0] < self.run.start:
            is_only = len(self.walk.assignment.steps.items[value[0]].vals) == 1
        self.walk.note_name(Named(self.nodes[note.local], value, is_only, note.layout))

    def _index(self, index: int) -> int:
        return index - self.run.start + self.start

    def _value(self, value: Value) -> Value:
        return self.makers[value] if value[0] < self.run.start else (self._index(value[0]), value[1])


def _leaf(val: Any, number: int) -> Any:
    return val if number < 0 else leaves(val)[number]


def _long(start: int, end: int) -> Iterator[tuple[int, int]]:
    if end - start >= LEAST_STEPS:
        yield start, end
    else:
        yield from ((index, index + 1) for index in range(start, end))
