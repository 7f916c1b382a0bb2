"""A program without state: parameters, buffers and constants become inputs, mutated buffers inputs written in place.

What is compiled ahead of time is made from this. A compiler that holds the values folds them into its code: inductor
computes whatever follows from a buffer of equal elements (a counter that starts at 0, an empty cache) once and for
all, so such a buffer would never change from call to call. And code without values is the same for all ranks that
share a graph.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from shardwright.errors import ProgramError
from shardwright.program.duplicate import copy_graph
from shardwright.program.program import STATE_KINDS
from shardwright.program.torch_private import pytree


@dataclass(frozen=True)
class Stateless:
    """A program whose inputs and outputs are flat lists of tensors.

    ``state``: the names of the tensors that come first; the user's tensors follow, in order. ``columns``: the names of
    those that lie column by column; all else is dense, row by row. ``inputs`` and ``outputs``: which of the original's
    flat inputs and outputs are tensors; the others are ``constants`` by position.
    """

    exported: ExportedProgram
    state: tuple[str, ...]
    columns: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[int, Any]


def without_state(
    exported: ExportedProgram, aliases: Mapping[str, str], in_columns: Callable[[torch.fx.Node], bool] = lambda _: False
) -> Stateless:
    """The same program with its state as inputs. ``aliases``: tied tensors, name → the name they are one with.

    Tied tensors are one input: a write to one must be seen through the other. ``in_columns``: which matrices of the
    state, given as the nodes that stand for them, are to be passed column by column. Raises `ProgramError` for inputs
    and outputs that are symbolic numbers.
    """
    graph = copy_graph(exported.graph)
    nodes = {node.name: node for node in graph.nodes}
    state: dict[str, Any] = {}
    given: dict[int, Any] = {}
    position = 0
    for spec in exported.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind in STATE_KINDS:
            name = aliases.get(str(spec.target), str(spec.target))
            if name in state:
                node.replace_all_uses_with(state[name])
                graph.erase_node(node)
            else:
                state[name] = node
        elif spec.kind == InputKind.USER_INPUT:
            if isinstance(spec.arg, TensorArgument):
                given[position] = node
            elif node.users:
                raise ProgramError(
                    f"input {node.name!r} is a number that may change, which compiled code does not take"
                )
            else:
                graph.erase_node(node)
            position += 1
        else:
            raise ProgramError(f"input {node.name!r} ({spec.kind.name}) is not supported by compiled code")
    columns = tuple(name for name, node in state.items() if in_columns(node))
    return _assembled(exported, graph, state, columns, given, aliases)


def _assembled(
    exported: ExportedProgram,
    graph: torch.fx.Graph,
    state: Mapping[str, Any],
    columns: tuple[str, ...],
    given: Mapping[int, Any],
    aliases: Mapping[str, str],
) -> Stateless:
    returned = _returned(exported, graph, state, aliases)
    graph.output_node().args = (tuple(value for _, value in returned.given),)
    taken = [*state.values(), *given.values()]
    for node in taken:
        node.meta["val"] = _dense(node.meta["val"])
    for name in columns:
        state[name].meta["val"] = _turned(state[name].meta["val"])
    fakes = tuple(node.meta["val"] for node in taken)
    in_spec, out_spec = pytree.tree_structure((fakes, {})), pytree.tree_structure(tuple(returned.outputs))
    made = ExportedProgram(
        root=exported.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(
            input_specs=[InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in taken],
            output_specs=[spec for spec, _ in returned.given],
        ),
        state_dict={},
        range_constraints=copy.copy(exported.range_constraints),
        module_call_graph=[ModuleCallEntry("", ModuleCallSignature([], [], in_spec, out_spec))],
        example_inputs=(fakes, {}),
        constants={k: v for k, v in exported.constants.items() if not isinstance(v, torch.Tensor)},
        verifiers=exported.verifiers,
    )
    return Stateless(made, tuple(state), columns, tuple(given), tuple(returned.outputs), returned.constants)


@dataclass(frozen=True, slots=True)
class _Returned:
    """What a stateless program gives: tensors with their specs; which of the original's outputs are tensors, and the
    other outputs by position.
    """

    given: list[tuple[OutputSpec, torch.fx.Node]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)


def _returned(
    exported: ExportedProgram, graph: torch.fx.Graph, state: Mapping[str, Any], aliases: Mapping[str, str]
) -> _Returned:
    found = _Returned()
    written: set[str] = set()
    position = 0
    results: Any = graph.output_node().args[0]
    for spec, value in zip(exported.graph_signature.output_specs, results, strict=True):
        if spec.kind == OutputKind.BUFFER_MUTATION:
            name = aliases.get(str(spec.target), str(spec.target))
            if name in written:
                raise ProgramError(f"{name!r} is written under two names, {spec.target!r} is one of them")
            written.add(name)
            mutation = OutputSpec(OutputKind.USER_INPUT_MUTATION, TensorArgument(value.name), state[name].name)
            found.given.append((mutation, value))
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            found.given.append((OutputSpec(spec.kind, TensorArgument(value.name), spec.target), value))
        else:
            if not isinstance(value, torch.fx.Node):
                if isinstance(value, float) and not math.isfinite(value):
                    raise ProgramError(f"output {position} is {value}, which a compiled package does not hold")
                found.constants[position] = value
            elif isinstance(spec.arg, TensorArgument):
                found.outputs.append(position)
                found.given.append((OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(value.name), None), value))
            else:
                raise ProgramError(
                    f"output {value.name!r} is a number that may change, which compiled code cannot give"
                )
            position += 1
    return found


def _dense(fake: torch.Tensor) -> torch.Tensor:
    """The same tensor in dense memory, as it will be passed: the compiler goes by strides."""
    with fake.fake_mode:  # type: ignore[attr-defined]
        return fake if fake.is_contiguous() else torch.empty(fake.shape, dtype=fake.dtype, device=fake.device)


def _turned(fake: torch.Tensor) -> torch.Tensor:
    """The same matrix lying column by column."""
    with fake.fake_mode:  # type: ignore[attr-defined]
        return torch.empty(fake.shape[::-1], dtype=fake.dtype, device=fake.device).t()
