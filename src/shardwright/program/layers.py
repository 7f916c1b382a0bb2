"""Stacks: layers in a row that are alike, each reading what the one before it gives.

A *layer* is what stands under one numbered module (``layers.7``). Layers are alike when they call the same operators
with the same constants on values of the same shapes and dtypes, read each other and what all of them share alike, and
have weights of their own of the same shapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from shardwright.program.nodes import RANGE, module_path, numbered_module
from shardwright.program.program import Input, Output, Program
from shardwright.program.torch_private import HigherOrderOperator


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its number in its container, its calls in order, and the placeholders that only it reads, in order of
    their first reading.
    """

    container: str
    number: int
    nodes: tuple[fx.Node, ...]
    own: tuple[fx.Node, ...] = ()

    @property
    def module(self) -> str:
        """Its module's path."""
        return f"{self.container}.{self.number}"


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers in a row that are alike: two at least."""

    layers: tuple[Layer, ...]


def find_stacks(program: Program) -> list[Stack]:
    """The stacks of a program, in order; none of a program that is for training, whose layers lie apart in it."""
    if program.is_joint:
        return []
    keys = Keys.of(program)
    found: list[Stack] = []
    for row in _in_rows(program.graph):
        # The first has nothing before it, and the last is read by what comes behind.
        members = row[1:-1]
        start, first = 0, None
        for end in range(len(members) + 1):
            key = keys.key(row[end], members[end], row[end + 2]) if end < len(members) else None
            if key is not None and key == first:
                continue
            if end - start > 1 and first is not None:
                found.append(Stack(tuple(members[start:end])))
            start, first = end, key
    return found


def _in_rows(graph: fx.Graph) -> Iterator[list[Layer]]:
    """Layers with numbers that follow each other, as long as nothing else is called between them."""
    row: list[Layer] = []
    module, nodes = None, list[fx.Node]()
    for node in graph.nodes:
        found = numbered_module(module_path(node)) if node.op == "call_function" else None
        if node.op == "placeholder":
            continue
        if found == module and found is not None:
            nodes.append(node)
            continue
        if module is not None:
            container, _, number = module.rpartition(".")
            layer = layer_of(container, int(number), nodes)
            if row and (row[-1].container, row[-1].number + 1) != (container, layer.number):
                yield row
                row = []
            row.append(layer)
        if found is None and row:
            yield row
            row = []
        module, nodes = found, [node]
    if row:
        yield row


def layer_of(container: str, number: int, nodes: Sequence[fx.Node]) -> Layer:
    """The layer of these calls, with the placeholders that it alone reads."""
    inside = set(nodes)
    own = {
        source: None
        for node in nodes
        for source in node.all_input_nodes
        if source.op == "placeholder" and all(user in inside for user in source.users)
    }
    return Layer(container, number, tuple(nodes), tuple(own))


@dataclass(slots=True)
class Keys:
    """What layers of a program are compared by. ``inputs``: by placeholder; ``returned``: the kinds and targets of the
    outputs that a node is.
    """

    inputs: Mapping[str, Input]
    returned: Mapping[fx.Node, Sequence[Output]]
    _facts: dict[int, Any] = field(default_factory=dict)

    @staticmethod
    def of(program: Program) -> "Keys":
        """The keys of a program's layers."""
        returned = {
            node: [program.outputs[number] for number in numbers]
            for node, numbers in program.numbers_of_outputs().items()
        }
        return Keys({item.name: item for item in program.inputs}, returned)

    def key(self, before: Layer, layer: Layer, after: Layer) -> tuple[Any, ...] | None:
        """Equal for layers that are alike, each between those beside it; None for one that is like no other."""
        names: dict[fx.Node, Any] = {node: ("before", place) for place, node in enumerate(before.nodes)}
        names.update((node, ("here", place)) for place, node in enumerate(layer.nodes))
        names.update((node, ("own", place)) for place, node in enumerate(layer.own))
        readers = {*layer.nodes, *after.nodes}
        places = {layer.module: "here", before.module: "before"}
        own = {node.name: place for place, node in enumerate(layer.own)}
        parts: list[Any] = [self._own(node, layer) for node in layer.own]
        for node in layer.nodes:
            if node.op != "call_function" or isinstance(node.target, HigherOrderOperator):
                return None
            if any(user not in readers and user.op != "output" for user in node.users):
                return None
            args = tuple(_key(one, names) for one in node.args)
            kwargs = tuple((name, _key(one, names)) for name, one in node.kwargs.items()) if node.kwargs else ()
            outputs = tuple(
                (one.kind, own.get(str(one.target), str(one.target).removeprefix(layer.module)))
                for one in self.returned.get(node, ())
            )
            path = module_path(node)
            module = numbered_module(path)
            where = (places[module], path.removeprefix(module)) if module in places else path  # type: ignore[arg-type]
            parts.append((node.target, args, kwargs, self._fact(node.meta.get("val")), where, outputs, _says(node)))
        return tuple(parts)

    def _own(self, node: fx.Node, layer: Layer) -> Any:
        item = self.inputs.get(node.name)
        target = item.target if item is not None else None
        kind = (item.kind, item.persistent) if item is not None else None
        relative = target.removeprefix(f"{layer.module}.") if target is not None else None
        return kind, relative, self._fact(node.meta.get("val"))

    def _fact(self, val: Any) -> Any:
        if id(val) not in self._facts:
            # The value is kept, so that no other has its id.
            self._facts[id(val)] = val, _fact(val)
        return self._facts[id(val)][1]


def _says(node: fx.Node) -> Any:
    """What metadata says of a call itself: the range of a whole that it takes, what it sends."""
    record = node.meta.get("collective")
    sent = (record.kind, record.axis, record.num_bytes, record.shape, record.message) if record is not None else None
    return node.meta.get(RANGE), sent


def _key(value: Any, names: Mapping[fx.Node, Any]) -> Any:
    kind = type(value)
    if kind is fx.Node:
        # What is of no layer, or further back, is itself.
        return names.get(value, value)
    if isinstance(value, (list, tuple)):
        return "list", *[_key(one, names) for one in value]
    if kind is slice:
        return kind, _key(value.start, names), _key(value.stop, names), _key(value.step, names)
    # Of what Python calls equal, 0.0 and -0.0 are not, nor are 1, 1.0 and True.
    return kind, repr(value) if kind is float else value


def _fact(val: Any) -> Any:
    if isinstance(val, torch.Tensor):
        sizes = [size if type(size) is int else str(size) for size in (*val.shape, *val.stride())]
        return (*sizes, val.dtype, val.device, val.requires_grad)
    if isinstance(val, (list, tuple)):
        return tuple(map(_fact, val))
    return str(val)
