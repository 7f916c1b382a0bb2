"""From an `ExportedProgram`, or a file of one, to a `Program`."""

from enum import Enum
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    CustomObjArgument,
    InputKind,
    OutputKind,
)

from shardwright.errors import ProgramError
from shardwright.layout.dtypes import DTYPES
from shardwright.program.flatten import flat_graph, functional
from shardwright.program.legal import Stage, check
from shardwright.program.nodes import describe_node
from shardwright.program.program import STATE_KINDS, Input, Output, Program, Weight, held_by, tensors_in
from shardwright.program.quantized_weights import left_behind
from shardwright.program.serial import one_at_a_time
from shardwright.program.subclasses import taken_apart
from shardwright.program.unwritable import refuse_unwritable


@one_at_a_time
def read(exported: ExportedProgram) -> Program:
    """Read an exported program; the exported program itself stays as it is.

    A graph that mutates is functionalised first (torch's own ``run_decompositions({})``, which keeps composite
    operators whole); a functional one is taken as it stands. Weights of tensor subclasses, such as torchao's quantised
    ones, are taken apart into plain tensors (see `subclasses`). Subgraphs without gradients are inlined. A joint
    program (of a loss and gradients, see `export_training`) is read like any other. State that nothing reads is left
    out where no package could hold it (sparse or on the meta device, say), where quantised weights have taken the
    place of float ones, and where it is the zero points of symmetric ones.

    Raises `ProgramError` when it is not an exported program or holds objects that cannot be sharded.
    """
    if not isinstance(exported, ExportedProgram):
        raise ProgramError(
            f"expected a torch.export.ExportedProgram, got {type(exported).__name__}\n"
            "  try: ep = torch.export.export(model, example_inputs), then pass ep"
        )
    refuse_unwritable(exported)
    exported = functional(taken_apart(exported))
    signature, dropped = exported.graph_signature, _unusable(exported) | _left_behind(exported)
    graph = flat_graph(exported, dropped)
    _refuse_sparse(graph)
    inputs = tuple(
        Input(spec.arg.name, spec.kind, spec.target, spec.persistent)  # type: ignore[union-attr]
        for spec in signature.input_specs
        if spec.kind != InputKind.TOKEN and getattr(spec.arg, "name", None) not in dropped
    )
    unsupported = [i.name for i in inputs if i.kind not in (*STATE_KINDS, InputKind.USER_INPUT)]
    if unsupported:
        raise ProgramError(f"inputs {unsupported} are neither tensors nor numbers; such programs cannot be sharded yet")
    outputs = tuple(
        Output(spec.kind, spec.target, getattr(spec.arg, "name", None) or None)
        for spec in signature.output_specs
        if spec.kind != OutputKind.TOKEN
    )
    tensors = held_by(exported)
    weights = {i.target: Weight(tensors[i.target]) for i in inputs if i.is_state and i.target is not None}
    return check(Program(exported, graph, inputs, outputs, weights, exported.graph_module), Stage.READ)


def _unusable(exported: ExportedProgram) -> set[str]:
    """The placeholders of state that nothing reads or writes, and that are not tensors which a package can hold."""
    tensors = held_by(exported)
    written = {spec.target for spec in exported.graph_signature.output_specs}
    read = {node.name for node in exported.graph.nodes if node.op == "placeholder" and node.users}
    state = {s.arg.name: s.target for s in exported.graph_signature.input_specs if s.kind in STATE_KINDS}
    held = {name: (target, tensors[target]) for name, target in state.items() if target is not None}
    # Buffers that no file holds are computed; where all else is on the meta device, the weights are elsewhere (in a
    # checkpoint, in a package), or only planned for.
    computed = {
        s.arg.name for s in exported.graph_signature.input_specs if s.kind == InputKind.BUFFER and not s.persistent
    }
    has_data = any(not tensor.is_meta for name, (_, tensor) in held.items() if name not in computed)
    has_data &= not any(tensor.is_meta for name, (_, tensor) in held.items() if name in read)
    return {
        name
        for name, (target, tensor) in held.items()
        if name not in read and target not in written and not _is_storable(tensor, has_data=has_data)
    }


def _left_behind(exported: ExportedProgram) -> set[str]:
    """The placeholders of what quantised weights leave unread."""
    specs = exported.graph_signature.input_specs
    written = {spec.target for spec in exported.graph_signature.output_specs}
    state = {s.arg.name: s.target for s in specs if s.kind in STATE_KINDS and s.target and s.target not in written}
    return left_behind(exported.graph, state)


def _is_storable(tensor: torch.Tensor, *, has_data: bool) -> bool:
    return tensor.layout == torch.strided and tensor.dtype in DTYPES and not (has_data and tensor.is_meta)


def _refuse_sparse(graph: fx.Graph) -> None:
    for node in graph.nodes:
        for tensor in tensors_in(node.meta.get("val")):
            if tensor.layout != torch.strided:
                raise ProgramError(
                    f"{describe_node(node)} is a tensor of layout {tensor.layout}; only strided tensors can be "
                    "sharded\n  try: make it dense (.to_dense()) before it enters the exported part"
                )


def user_input_names(exported: ExportedProgram) -> list[str]:
    """The placeholders of what the user gives, in order; constants have one each."""
    return [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]


def constant_inputs(exported: ExportedProgram) -> dict[str, Any]:
    """The user inputs that were constants at export (flags, numbers, text, None, members of enumerations): placeholder
    → value.
    """
    given = [spec.arg for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    found: dict[str, Any] = {arg.name: arg.value for arg in given if isinstance(arg, ConstantArgument)}
    # torch keeps a member of an enumeration as it keeps script objects.
    members = ((arg.name, arg.fake_val) for arg in given if isinstance(arg, CustomObjArgument))
    found.update((name, member) for name, member in members if isinstance(member, Enum))
    return {arg.name: found[arg.name] for arg in given if arg.name in found}
