"""Weights that are tensor subclasses, made of several plain tensors: taken apart, under names that follow the module.

A quantised ``layers.0.up.weight`` of torchao's becomes ``layers.0.up.weight.qdata``, ``layers.0.up.weight.scale`` …
Subclasses made of anything else are named as torch names them (``layers.0.up.parametrizations.weight.original0``), as
they are where ``run_decompositions`` was called before.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputSpec, TensorArgument

from shardwright.errors import ProgramError, first_line
from shardwright.program.program import held_by
from shardwright.program.remembered import remembered
from shardwright.program.torch_private import is_wrapper_subclass
from shardwright.program.torch_repeats import operators_listed_once
from shardwright.program.write import parts_of_exported

PACKED = "qdata"
"""What torchao calls the quantised values of a weight; scales and zero points stand beside them."""

_ORIGINAL = re.compile(r"((?:.*\.)?)parametrizations\.([^.]+)\.original(\d+)")


def taken_apart(exported: ExportedProgram) -> ExportedProgram:
    """The program with plain tensors in place of tensor subclasses; itself where it holds none.

    torch's own ``run_decompositions({})`` unwraps them in the graph, and keeps composite operators whole. Weights that
    were one stay one. Raises `ProgramError` where torch cannot unwrap a subclass.
    """
    if not any(map(is_wrapper_subclass, held_by(exported).values())):
        return exported
    return _taken_apart(exported)


@remembered
def _taken_apart(exported: ExportedProgram) -> ExportedProgram:
    wrapped = {name: tensor for name, tensor in held_by(exported).items() if is_wrapper_subclass(tensor)}
    try:
        with operators_listed_once():
            plain = exported.run_decompositions({})
    except Exception as error:
        # Unwrapping runs the code of the subclass.
        kinds = sorted({type(tensor).__name__ for tensor in wrapped.values()})
        raise ProgramError(
            f"torch cannot take apart the weights of type {', '.join(kinds)} ({type(error).__name__}: "
            f"{first_line(error)}): {', '.join(map(repr, list(wrapped)[:4]))}\n"
            "  try: exported.run_decompositions({}), which shows where it fails"
        ) from error
    parts = dict(_parts(plain, wrapped))
    return _renamed(plain, parts) if parts else plain


def _parts(plain: ExportedProgram, wrapped: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, torch.Tensor]]]:
    """By torch's name of every plain tensor: its new name, and the tensor, which tied weights share."""
    for spec in plain.graph_signature.input_specs:
        match = _ORIGINAL.fullmatch(str(spec.target or ""))
        whole = wrapped.get(match[1] + match[2]) if match else None
        if match is None or whole is None:
            continue
        names = whole.__tensor_flatten__()[0]
        inner = [getattr(whole, name) for name in names]
        if PACKED in names and not any(map(is_wrapper_subclass, inner)):
            number = int(match[3])
            yield match[0], (f"{match[1]}{match[2]}.{names[number]}", inner[number])


def _renamed(exported: ExportedProgram, parts: Mapping[str, tuple[str, torch.Tensor]]) -> ExportedProgram:
    """The program with other names for some of its tensors; ``exported`` itself must not be used any longer."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    taken = {node.name for node in exported.graph.nodes}
    specs = []
    for spec in exported.graph_signature.input_specs:
        if spec.target in parts:
            node, wanted = nodes[spec.arg.name], "p_" + parts[spec.target][0].replace(".", "_")  # type: ignore[union-attr]
            node.name = wanted if wanted not in taken else node.name
            taken.add(node.name)
            spec: InputSpec = replace(spec, target=parts[spec.target][0], arg=TensorArgument(node.name))
        specs.append(spec)

    first: dict[int, Any] = {}

    def table(held: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in held.items():
            new, inner = parts.get(name, (name, value))
            found[new] = first.setdefault(id(inner), value)
        return found

    signature = ExportGraphSignature(specs, exported.graph_signature.output_specs)
    tables = {"state_dict": table(exported.state_dict), "constants": table(exported.constants)}
    return ExportedProgram(**parts_of_exported(exported, graph_signature=signature, **tables))
