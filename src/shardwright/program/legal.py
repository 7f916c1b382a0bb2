"""What a `Program` must satisfy, as a table: laws that are checked after each pass.

In tests every pass is checked; users turn it on with the environment variable ``SHARDWRIGHT_CHECK=1``. A law that is
broken is a mistake of this compiler, not of the user's. The idea of legality as a table is tinygrad's (``spec``).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import fx

from shardwright.errors import Finding, ShardwrightError, raise_findings
from shardwright.program.collectives import COLLECTIVES, message_of
from shardwright.program.nodes import describe_node, is_write, subgraph_of
from shardwright.program.program import Program
from shardwright.program.torch_private import schema_of

CHECK_SWITCH = "SHARDWRIGHT_CHECK"
"""The environment variable that turns the checks on."""


class Stage(Enum):
    """Which pass a program has come out of."""

    READ = "read"
    PARTITIONED = "partitioned"
    MERGED = "merged"
    ARRANGED = "arranged"
    LOWERED = "lowered"
    LEAN = "lean"


class IllegalProgramError(ShardwrightError):
    """A pass gave a program that breaks a law. Please report it."""


def check(program: Program, stage: Stage) -> Program:
    """The program itself, checked where `CHECK_SWITCH` is set; raises `IllegalProgramError` with all findings."""
    if is_checked():
        check_laws(program, stage)
    return program


def is_checked() -> bool:
    """Whether passes are to be checked."""
    return os.environ.get(CHECK_SWITCH, "0") not in ("", "0")


def check_laws(program: Program, stage: Stage) -> None:
    """Check every law of a stage, in one walk. Raises `IllegalProgramError` with every breach and the law it breaks."""
    found: list[Finding] = []
    top = _Scope(program.owner)
    _check_graph(program.graph, top, {**_EVERY_NODE, **_NODES.get(stage, {})}, found)
    for law, breaches in {**_EVERY_PROGRAM, **_PROGRAMS.get(stage, {})}.items():
        found += [_finding(text, law) for text in breaches(program, top)]
    raise_findings(IllegalProgramError, found, summary=f"the {stage.value} program is not legal")


@dataclass(slots=True)
class _Scope:
    """What a node of one graph may refer to: attributes of ``owner``, and ``nodes`` that stand before it."""

    owner: Any
    nodes: dict[fx.Node, None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def placeholders(self) -> dict[str, fx.Node]:
        return {node.name: node for node in self.nodes if node.op == "placeholder"}

    def returned(self) -> Any:
        values: Any = next(reversed(self.nodes)).args[0]
        return values if isinstance(values, (list, tuple)) else (values,)


def _check_graph(graph: fx.Graph, scope: _Scope, laws: "Mapping[str, _NodeLaw]", found: list[Finding]) -> None:
    for node in graph.nodes:
        for law, breach in laws.items():
            if text := breach(node, scope):
                found.append(_finding(text, law))
        scope.nodes[node] = None
        scope.names.add(node.name)
        subgraph = subgraph_of(node)
        if subgraph is not None:
            _check_graph(subgraph.graph, _Scope(subgraph), laws, found)


def _finding(text: str, law: str) -> Finding:
    return Finding(f"{text} (law: {law})")


def _made_before_read(node: fx.Node, scope: _Scope) -> str | None:
    late = [source.name for source in node.all_input_nodes if source not in scope.nodes]
    if late:
        return f"{describe_node(node)} reads {late} before they are made"
    return None


def _names_are_unique(node: fx.Node, scope: _Scope) -> str | None:
    if node.name in scope.names:
        return f"two nodes are called {node.name!r}"
    return None


def _has_value(node: fx.Node, _: _Scope) -> str | None:
    if node.op in ("placeholder", "call_function") and "val" not in node.meta and node.users:
        return f"{describe_node(node)} has no metadata"
    return None


def _attribute_exists(node: fx.Node, scope: _Scope) -> str | None:
    if node.op == "get_attr":
        value: Any = scope.owner
        for part in str(node.target).split("."):
            value = getattr(value, part, None)
        if value is None:
            return f"{node.name} names {node.target!r}, which its module lacks"
    return None


def _is_function(node: fx.Node, _: _Scope) -> str | None:
    if node.op in ("call_module", "call_method"):
        return f"{node.name} is a {node.op}"
    return None


def _writes_nothing(node: fx.Node, _: _Scope) -> str | None:
    if is_write(node):
        return f"{describe_node(node)} writes to its operand"
    return None


def _is_no_collective(node: fx.Node, _: _Scope) -> str | None:
    if node.target in COLLECTIVES:
        return f"{describe_node(node)} is one of the compiler's"
    return None


def _has_cause(node: fx.Node, _: _Scope) -> str | None:
    if node.target in COLLECTIVES:
        record = node.meta.get("collective")
        if record is None or record.kind != node.target.__name__ or record.axis not in node.args:  # type: ignore[union-attr]
            return f"{describe_node(node)} is recorded as {record}"
    return None


def _stands_together(node: fx.Node, _: _Scope) -> str | None:
    message = message_of(node)
    if message and message_of(node.prev) != message and message in _messages_before(node):
        return f"{describe_node(node)} is apart from the others of message {message}"
    return None


def _messages_before(node: fx.Node) -> Iterator[int]:
    while node.prev.op != "root":
        node = node.prev
        yield message_of(node)


def _is_waited_for(node: fx.Node, _: _Scope) -> str | None:
    schema = schema_of(node.target)
    if schema is None or not schema.name.startswith("_c10d_functional::") or node.target is _WAIT:
        return None
    others = [user.name for user in node.users if user.target is not _WAIT]
    if others or not node.users:
        return f"{describe_node(node)} is read by {others or 'nobody'} without waiting for it"
    return None


def _inputs_are_placeholders(program: Program, top: _Scope) -> Iterator[str]:
    inputs, placeholders = [item.name for item in program.inputs], list(top.placeholders())
    if inputs != placeholders:
        yield f"inputs and placeholders differ in {sorted(set(inputs) ^ set(placeholders)) or 'their order'}"


def _state_has_weights(program: Program, _: _Scope) -> Iterator[str]:
    for item in program.inputs:
        if item.is_state and item.target not in program.weights:
            yield f"{item.name} stands for {item.target!r}, which is not among the weights"


def _weights_fit(program: Program, top: _Scope) -> Iterator[str]:
    nodes = top.placeholders()
    for item in program.inputs:
        weight = program.weights.get(str(item.target)) if item.is_state else None
        val = nodes[item.name].meta.get("val") if item.name in nodes else None
        if weight is None or not isinstance(val, torch.Tensor):
            continue
        if tuple(val.shape) != weight.shape or val.dtype != weight.tensor.dtype:
            yield f"{item.name} is {val.dtype} {tuple(val.shape)}, its weight {weight.tensor.dtype} {weight.shape}"


def _outputs_are_returned(program: Program, top: _Scope) -> Iterator[str]:
    if len(program.outputs) != len(top.returned()):
        yield f"{len(program.outputs)} outputs are declared, {len(top.returned())} returned"
    known = {item.name for item in program.inputs} | {item.target for item in program.inputs}
    for output in program.outputs:
        if output.kind.name.endswith("MUTATION") and output.target not in known:
            yield f"an output mutates {output.target!r}, which is not an input"


def _origins_are_nodes(program: Program, top: _Scope) -> Iterator[str]:
    lost = sorted(name for name in program.origins if name not in top.names)
    if lost:
        yield f"origins are known of {lost[:6]}, which are not in the graph"


def _nothing_is_cut(program: Program, _: _Scope) -> Iterator[str]:
    for name, weight in program.weights.items():
        if weight.cuts:
            yield f"{name!r} is cut before any axis is compiled"


_WAIT = torch.ops._c10d_functional.wait_tensor.default

_NodeLaw = Callable[[fx.Node, _Scope], str | None]
_ProgramLaw = Callable[[Program, _Scope], Iterator[str]]

_EVERY_NODE: Mapping[str, _NodeLaw] = {
    "names are unique in a graph": _names_are_unique,
    "values are made before they are read": _made_before_read,
    "what is read has metadata": _has_value,
    "attributes exist": _attribute_exists,
    "nodes are inputs, attributes, functions and outputs": _is_function,
    "no operator writes to its operands": _writes_nothing,
}
_EVERY_PROGRAM: Mapping[str, _ProgramLaw] = {
    "inputs are the placeholders, in order": _inputs_are_placeholders,
    "every parameter, buffer and constant has a weight": _state_has_weights,
    "a placeholder has its weight's local shape and dtype": _weights_fit,
    "every output is returned, and mutates an input if any": _outputs_are_returned,
    "what has an origin is in the graph": _origins_are_nodes,
}
_COMPILED: Mapping[str, _NodeLaw] = {"every collective has a record of its kind, axis and cause": _has_cause}
_LOWERED: Mapping[str, _NodeLaw] = {
    "no collective of the compiler's is left": _is_no_collective,
    "torch's collectives are waited for": _is_waited_for,
}

_NODES: Mapping[Stage, Mapping[str, _NodeLaw]] = {
    Stage.READ: {"a program that was read has no collective of the compiler's": _is_no_collective},
    Stage.PARTITIONED: _COMPILED,
    Stage.MERGED: _COMPILED,
    Stage.ARRANGED: {**_COMPILED, "what is sent as one message stands together": _stands_together},
    Stage.LOWERED: _LOWERED,
    Stage.LEAN: _LOWERED,
}
_PROGRAMS: Mapping[Stage, Mapping[str, _ProgramLaw]] = {Stage.READ: {"no weight is cut": _nothing_is_cut}}
