"""What is read off an `ExportedProgram`, and how one is put back together.

A `Program` is a functional ATen graph with what surrounds it: the signature (which placeholder is which parameter,
buffer, constant or user input; which output mutates which buffer), lazy weights, module paths. Compiler passes take a
Program and give a Program; only this file touches the insides of `ExportedProgram`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
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

from shardwright.errors import ProgramError
from shardwright.layout.dtypes import DTYPES
from shardwright.layout.layout import REPLICATE, Layout, Size, local_shape, take_shard
from shardwright.program.flatten import flat_graph, functional
from shardwright.program.nodes import describe, module_path, module_stack
from shardwright.program.serial import one_at_a_time

STATE_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True)
class Weight:
    """A parameter, buffer or constant: the whole tensor and the cuts that lead to this rank's piece, not yet made.

    ``cuts``: (layout, coordinate) one a mesh axis, applied in order when the piece is needed.
    """

    tensor: torch.Tensor
    cuts: tuple[tuple[Layout, int], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The local shape."""
        shape: tuple[Size, ...] = tuple(self.tensor.shape)
        for layout, coordinate in self.cuts:
            shape = local_shape(shape, layout, coordinate)
        return tuple(int(size) for size in shape)

    @property
    def num_bytes(self) -> int:
        """The bytes of this rank's piece."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.tensor.element_size()

    def cut(self, layout: Layout, coordinate: int) -> "Weight":
        """The piece that ``coordinate`` holds under ``layout``."""
        return self if layout == REPLICATE else Weight(self.tensor, (*self.cuts, (layout, coordinate)))

    def materialize(self) -> torch.Tensor:
        """This rank's piece, with storage of its own unless it is the whole tensor; parameters stay parameters."""
        piece = self.tensor.detach()
        for layout, coordinate in self.cuts:
            piece = take_shard(piece, layout, coordinate)
        if self.cuts:
            # A view of the whole would keep all of it alive, and torch.export.save would write all of it.
            piece = piece.clone(memory_format=torch.contiguous_format)
        if isinstance(self.tensor, torch.nn.Parameter):
            return torch.nn.Parameter(piece, requires_grad=self.tensor.requires_grad)
        return piece.requires_grad_(self.tensor.requires_grad) if self.tensor.requires_grad else piece


@dataclass(frozen=True)
class Input:
    """One placeholder of the graph."""

    name: str
    kind: InputKind
    target: str | None
    persistent: bool | None = None

    @property
    def is_state(self) -> bool:
        """Whether it is a parameter, a buffer or a lifted constant tensor."""
        return self.kind in STATE_KINDS


@dataclass(frozen=True)
class Output:
    """One output of the graph; ``target`` is the buffer or user input it mutates, if any."""

    kind: OutputKind
    target: str | None
    name: str | None


@dataclass
class Program:
    """A functional graph and what surrounds it. ``source`` supplies what every pass keeps: specs, ranges, modules."""

    source: ExportedProgram
    graph: fx.Graph
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    weights: dict[str, Weight]
    owner: torch.nn.Module
    origins: dict[str, tuple[str, tuple[Layout, ...]]] = field(default_factory=dict)
    """For a partitioned program: the original node that a node stands for, and its layout on each axis so far."""

    def user_inputs(self) -> list[Input]:
        """The inputs the user gives, in order."""
        return [i for i in self.inputs if i.kind == InputKind.USER_INPUT]

    def placeholders(self) -> list[fx.Node]:
        """The placeholder nodes, in order of `inputs`."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def output_values(self) -> Sequence[Any]:
        """The values returned, in order of `outputs`."""
        values: Any = self.graph.output_node().args[0]
        # A region may return one bare value.
        return values if isinstance(values, (list, tuple)) else (values,)

    @property
    def fake_mode(self) -> Any:
        """The fake-tensor mode of the graph's metadata; None for a graph without tensors."""
        for node in self.graph.nodes:
            for value in _tensors(node.meta.get("val")):
                return getattr(value, "fake_mode", None)
        return None

    def modules(self) -> dict[str, str]:
        """Every module path that ran (and the containers above it), with its class name, '' where unknown."""
        found: dict[str, str] = {}
        for node in self.graph.nodes:
            if module_path(node) in found:
                continue
            for path, name in module_stack(node):
                parts = path.split(".")
                for depth in range(1, len(parts)):
                    found.setdefault(".".join(parts[:depth]), "")
                found[path] = name
        for item in self.inputs:
            if item.target and item.kind in STATE_KINDS:
                parts = item.target.split(".")
                for depth in range(1, len(parts)):
                    found.setdefault(".".join(parts[:depth]), "")
        return found

    def idle(self) -> set[str]:
        """The names of tensors that nothing reads, and of modules that did not run and hold no others."""
        state = {item.name: item.target for item in self.inputs if item.is_state and item.target is not None}
        read = {state[node.name] for node in self.placeholders() if node.users and node.name in state}
        modules = [path for path, kind in self.modules().items() if not kind]
        unread = set(state.values()) - read
        return unread | {path for path in modules if not any(name.startswith(f"{path}.") for name in read)}

    def mutations(self) -> dict[int, str]:
        """For each output that mutates a buffer or an input: the name of the placeholder it mutates."""
        by_target = {i.target: i.name for i in self.inputs if i.target is not None}
        found = {}
        for index, output in enumerate(self.outputs):
            if output.kind == OutputKind.BUFFER_MUTATION:
                found[index] = by_target[str(output.target)]
            elif output.kind == OutputKind.USER_INPUT_MUTATION:
                found[index] = str(output.target)
        return found


@one_at_a_time
def read(exported: ExportedProgram) -> Program:
    """Read an exported program; the exported program itself stays as it is.

    A graph that mutates is functionalised first (torch's own ``run_decompositions({})``, which keeps composite
    operators whole); a functional one is taken as it stands. Regions without gradients are inlined. State that nothing
    reads is left out where no package could hold it: sparse or on the meta device, say.

    Raises `ProgramError` when it is not an exported program or holds objects that cannot be sharded.
    """
    if not isinstance(exported, ExportedProgram):
        raise ProgramError(
            f"expected a torch.export.ExportedProgram, got {type(exported).__name__}\n"
            "  try: ep = torch.export.export(model, example_inputs), then pass ep"
        )
    _refuse_training(exported)
    exported = functional(exported)
    signature, dropped = exported.graph_signature, _unusable(exported)
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
    tensors = {**exported.state_dict, **exported.constants}
    weights = {i.target: Weight(tensors[i.target]) for i in inputs if i.is_state and i.target is not None}
    return Program(exported, graph, inputs, outputs, weights, exported.graph_module)


def _refuse_training(exported: ExportedProgram) -> None:
    kinds = {spec.kind for spec in exported.graph_signature.output_specs}
    if kinds & {OutputKind.LOSS_OUTPUT, OutputKind.GRADIENT_TO_PARAMETER, OutputKind.GRADIENT_TO_USER_INPUT}:
        raise ProgramError(
            "this is a joint program: it gives a loss and gradients, and training is not supported yet\n"
            "  try: shard the forward program, as torch.export.export makes it"
        )


def _unusable(exported: ExportedProgram) -> set[str]:
    """The placeholders of state that nothing reads or writes, and that is no tensor which a package can hold."""
    tensors = {**exported.state_dict, **exported.constants}
    written = {spec.target for spec in exported.graph_signature.output_specs}
    read = {node.name for node in exported.graph.nodes if node.op == "placeholder" and node.users}
    state = {s.arg.name: s.target for s in exported.graph_signature.input_specs if s.kind in STATE_KINDS}
    held = {name: (target, tensors[target]) for name, target in state.items() if target is not None}
    # A program whose weights are all on the meta device is one without weights, to be planned for.
    has_data = any(tensor.device.type != "meta" for _, tensor in held.values())
    return {
        name
        for name, (target, tensor) in held.items()
        if name not in read and target not in written and not _is_storable(tensor, has_data=has_data)
    }


def _is_storable(tensor: torch.Tensor, *, has_data: bool) -> bool:
    return tensor.layout == torch.strided and tensor.dtype in DTYPES and not (has_data and tensor.device.type == "meta")


def _refuse_sparse(graph: fx.Graph) -> None:
    for node in graph.nodes:
        for tensor in _tensors(node.meta.get("val")):
            if tensor.layout != torch.strided:
                raise ProgramError(
                    f"{describe(node)} is a tensor of layout {tensor.layout}; only strided tensors can be sharded\n"
                    "  try: make it dense (.to_dense()) before it enters the exported part"
                )


def user_input_names(exported: ExportedProgram) -> list[str]:
    """The placeholders of what the user gives, in order; constants have one each."""
    return [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]


def constant_inputs(exported: ExportedProgram) -> dict[str, Any]:
    """The user inputs that were constants at export (flags, numbers, text, None): placeholder → value."""
    specs = (spec for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT)
    return {spec.arg.name: spec.arg.value for spec in specs if isinstance(spec.arg, ConstantArgument)}


@one_at_a_time
def write(program: Program) -> ExportedProgram:
    """The `ExportedProgram` of a program whose weights are made now; it keeps specs, ranges and module paths."""
    source = program.source
    kept = {spec.target: spec for spec in source.graph_signature.input_specs if spec.target is not None}
    given = iter(spec for spec in source.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT)
    specs = []
    for item, node in zip(program.inputs, program.placeholders(), strict=True):
        if item.kind == InputKind.USER_INPUT:
            old = next(given)
            specs.append(replace(old, arg=replace(old.arg, name=node.name)))
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
    return ExportedProgram(
        root=program.owner,
        graph=program.graph,
        graph_signature=ExportGraphSignature(input_specs=specs, output_specs=out_specs),
        state_dict=state,
        range_constraints=copy.copy(source.range_constraints),
        module_call_graph=[copy.copy(entry) for entry in source.module_call_graph],
        example_inputs=source.example_inputs,
        constants=constants,
        verifiers=source.verifiers,
    )


def attach_weights(exported: ExportedProgram, tensors: Mapping[str, torch.Tensor]) -> ExportedProgram:
    """Put tensors in place of an exported program's parameters, buffers and constants, by name; changed in place."""
    for spec in exported.graph_signature.input_specs:
        if spec.kind not in STATE_KINDS or spec.target is None:
            continue
        held = exported.state_dict if spec.target in exported.state_dict else exported.constants
        tensor = tensors[spec.target]
        if spec.kind == InputKind.PARAMETER:
            tensor = torch.nn.Parameter(tensor, requires_grad=held[spec.target].requires_grad)
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
        held = exported.state_dict if spec.target in exported.state_dict else exported.constants
        old = held[spec.target]
        key = (ties or {}).get(spec.target, spec.target if ties else id(old))
        if key not in made:
            new = replacement(spec.target, old)
            if isinstance(old, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            made[key] = new
        held[spec.target] = made[key]
    exported._example_inputs = None
    return exported


def without_weights(exported: ExportedProgram) -> ExportedProgram:
    """The same program with its weights on the meta device and no example inputs, to be saved as a graph alone."""
    meta = {
        spec.target: (exported.state_dict if spec.target in exported.state_dict else exported.constants)[spec.target]
        .detach()
        .to("meta")
        for spec in exported.graph_signature.input_specs
        if spec.kind in STATE_KINDS and spec.target is not None
    }
    bare = copy.copy(exported)
    bare._state_dict = dict(exported.state_dict)
    bare._constants = dict(exported.constants)
    bare._example_inputs = None
    return attach_weights(bare, meta)


def size_hint(size: Size, fake_mode: Any, *, unknown: int = 1024) -> int:
    """A number for a size: itself, or what it was when the program was exported; ``unknown`` for data-dependent."""
    if isinstance(size, int):
        return size
    env = getattr(fake_mode, "shape_env", None)
    # The newer name first: asking for the older one warns.
    name = "backed_var_to_val" if hasattr(env, "backed_var_to_val") else "var_to_val"
    values: Mapping[Any, Any] = getattr(env, name, None) or {}
    hinted = sympy.sympify(size).xreplace({s: values[s] for s in sympy.sympify(size).free_symbols if s in values})
    hinted = hinted.xreplace(dict.fromkeys(hinted.free_symbols, sympy.Integer(unknown)))
    return int(hinted)


def _tensors(value: Any) -> list[torch.Tensor]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, torch.Tensor)]
