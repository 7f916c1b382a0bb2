"""From a `Program` back to an `ExportedProgram`, and exported programs with other weights."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    TensorArgument,
)

from shardwright.program.program import STATE_KINDS, Program, Weight
from shardwright.program.serial import one_at_a_time
from shardwright.program.torch_private import drop_example_inputs, shallow_copy


@one_at_a_time
def write(program: Program) -> ExportedProgram:
    """The `ExportedProgram` of a program whose weights are made now; it keeps specs, ranges and module paths."""
    return ExportedProgram(**parts_of(program))


def parts_of(program: Program) -> dict[str, Any]:
    """What an `ExportedProgram` is constructed of, by the names of its arguments; ``program`` gives up its graph."""
    source = program.source
    kept = {spec.target: spec for spec in source.graph_signature.input_specs if spec.target is not None}
    given = iter(spec for spec in source.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT)
    specs = []
    for item, node in zip(program.inputs, program.placeholders(), strict=True):
        if item.kind == InputKind.USER_INPUT:
            old = next(given)
            specs.append(replace(old, arg=_argument(old.arg, node)))
        elif (item.target or "") in kept:
            specs.append(replace(kept[item.target or ""], arg=TensorArgument(node.name)))
        else:
            specs.append(InputSpec(item.kind, TensorArgument(node.name), item.target, item.persistent))
    out_specs = []
    kept_outputs = [spec for spec in source.graph_signature.output_specs if spec.kind != OutputKind.TOKEN]
    for spec, value in zip(kept_outputs, program.output_values(), strict=True):
        arg = spec.arg
        if isinstance(value, fx.Node) and not isinstance(arg, ConstantArgument):
            arg = type(arg)(value.name)  # type: ignore[call-arg]
        out_specs.append(replace(spec, arg=arg))
    state: dict[str, Any] = {}
    constants: dict[str, Any] = {
        key: value for key, value in source.constants.items() if not isinstance(value, torch.Tensor)
    }
    made: dict[Weight, torch.Tensor] = {}
    for item in program.inputs:
        if not item.is_state or item.target is None:
            continue
        weight = program.weights[item.target]
        key = (id(weight.tensor), weight.cuts)
        piece = made.setdefault(key, weight.materialize()) if key not in made else made[key]  # type: ignore[arg-type]
        persistent = item.kind == InputKind.PARAMETER or (item.kind == InputKind.BUFFER and item.persistent)
        (state if persistent else constants)[item.target] = piece
    return {
        "root": program.owner,
        "graph": program.graph,
        "graph_signature": ExportGraphSignature(input_specs=specs, output_specs=out_specs),
        "state_dict": state,
        "range_constraints": copy.copy(source.range_constraints),
        "module_call_graph": [copy.copy(entry) for entry in source.module_call_graph],
        "example_inputs": source.example_inputs,
        "constants": constants,
        "verifiers": source.verifiers,
    }


def parts_of_exported(exported: ExportedProgram, **others: Any) -> dict[str, Any]:
    """What an `ExportedProgram` was constructed of, by the names of the arguments, with ``others`` in their places.

    For a program that takes over its graph and tables: ``exported`` itself must not be used any longer.
    """
    known = exported.graph_signature
    parts = {
        "root": exported.graph_module,
        "graph": exported.graph,
        "graph_signature": ExportGraphSignature(known.input_specs, known.output_specs),
        "state_dict": exported.state_dict,
        "range_constraints": exported.range_constraints,
        "module_call_graph": exported.module_call_graph,
        "example_inputs": exported.example_inputs,
        "constants": exported.constants,
        "verifiers": exported.verifiers,
    }
    return {**parts, **others}


def _argument(given: Any, node: fx.Node) -> Any:
    """How a user input is known. A member of an enumeration of text or numbers is that: torch writes no other kinds."""
    # Torch 2.11 keeps a member as a constant, 2.13 as it keeps script objects.
    member: Any = given.value if isinstance(given, ConstantArgument) else getattr(given, "fake_val", None)
    kind = next((kind for kind in (int, float, str) if isinstance(member, Enum) and isinstance(member, kind)), None)
    if member is None or kind is None:
        return replace(given, name=node.name)
    node.meta["val"] = kind(member.value)
    return ConstantArgument(node.name, kind(member.value))


def attach_weights(exported: ExportedProgram, tensors: Mapping[str, torch.Tensor]) -> ExportedProgram:
    """Put tensors in place of an exported program's parameters, buffers and constants, by name; changed in place.

    Names of one tensor become names of one parameter.
    """
    made: dict[int, torch.nn.Parameter] = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind not in STATE_KINDS or spec.target is None:
            continue
        held = _table_of(exported, spec.target)
        tensor = tensors[spec.target]
        if spec.kind == InputKind.PARAMETER:
            if id(tensor) not in made:
                made[id(tensor)] = torch.nn.Parameter(tensor, requires_grad=held[spec.target].requires_grad)
            tensor = made[id(tensor)]
        held[spec.target] = tensor
    return exported


def replace_weights(
    exported: ExportedProgram,
    replacement: Callable[[str, torch.Tensor], torch.Tensor],
    ties: Mapping[str, str] | None = None,
) -> ExportedProgram:
    """Put ``replacement(name, tensor)`` in place of every parameter, buffer and constant; changed in place.

    Parameters stay parameters, and example inputs are dropped with what they were made for. Tied tensors stay one;
    ``ties``: name → first name of tensors that are one but have become several, as saving a program makes them.
    """
    made: dict[int | str, torch.Tensor] = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind not in STATE_KINDS or spec.target is None:
            continue
        held = _table_of(exported, spec.target)
        old = held[spec.target]
        key = (ties or {}).get(spec.target, spec.target if ties else id(old))
        if key not in made:
            new = replacement(spec.target, old)
            if isinstance(old, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            made[key] = new
        held[spec.target] = made[key]
    return drop_example_inputs(exported)


def without_weights(exported: ExportedProgram) -> ExportedProgram:
    """The same program with its weights on the meta device and no example inputs, to be saved as a graph alone."""
    meta = {
        spec.target: _table_of(exported, spec.target)[spec.target].detach().to("meta")
        for spec in exported.graph_signature.input_specs
        if spec.kind in STATE_KINDS and spec.target is not None
    }
    return attach_weights(drop_example_inputs(shallow_copy(exported)), meta)


def _table_of(exported: ExportedProgram, name: str) -> dict[str, Any]:
    """The table that holds a name: a program keeps constants apart from its state."""
    return exported.state_dict if name in exported.state_dict else exported.constants
