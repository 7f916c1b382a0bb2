"""What is read off an `ExportedProgram`, and how one is put back together.

A `Program` is a functional ATen graph with what surrounds it: the signature (which placeholder is which parameter,
buffer, constant or user input; which output mutates which buffer), lazy weights, module paths. Compiler passes take a
Program and give a Program; only this file touches the insides of `ExportedProgram`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    InputKind,
    OutputKind,
)

from shardwright.layout.layout import REPLICATE, Layout, local_shape
from shardwright.layout.pieces import take_shard
from shardwright.layout.sizes import Size
from shardwright.program.nodes import module_path, module_stack, numbered_module

_T = TypeVar("_T")

STATE_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)

RETURNED = (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT)
"""Outputs that a call gives back; the others write a buffer, or are the gradient of something."""

GRADIENT_KINDS = (OutputKind.GRADIENT_TO_PARAMETER, OutputKind.GRADIENT_TO_USER_INPUT)


def is_joint(outputs: Iterable[Any]) -> bool:
    """Whether outputs (of a program, or as a graph signature specifies them) are a loss and gradients."""
    return any(output.kind in (OutputKind.LOSS_OUTPUT, *GRADIENT_KINDS) for output in outputs)


def held_by(exported: ExportedProgram) -> dict[str, Any]:
    """What a program holds, by name: parameters, buffers, and constants, which need not be tensors."""
    return {**exported.state_dict, **exported.constants}


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

    def with_cut(self, layout: Layout, coordinate: int) -> Self:
        """What ``coordinate`` holds of it under ``layout``: one more cut."""
        return self if layout == REPLICATE else replace(self, cuts=(*self.cuts, (layout, coordinate)))

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
class RankConstant(Weight):
    """A constant of which every rank along ``axis`` has its own: ``values``, by rank; ``tensor`` is one of them."""

    axis: str = ""
    values: tuple[float, ...] = ()

    def of_rank(self, rank: int) -> "RankConstant":
        """The same constant for another rank along the axis, not cut."""
        made = torch.tensor(self.values[rank], dtype=self.tensor.dtype)
        return replace(self, tensor=made if self.tensor.is_meta else made.to(self.tensor.device), cuts=())


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
    is_of_rank: bool = False
    """For a partitioned program: whether its code is of one rank. Otherwise it is that of every rank whose pieces are
    as long, with weights, constants and starts of slices (`shardwright.program.nodes.RANGE`) of their own.
    """
    members: Mapping[str, int] = field(default_factory=dict)
    """For a shallow program (`shardwright.program.shallow`): how many modules or placeholders one stands for."""
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _mode: Any = field(default=None, init=False, repr=False, compare=False)

    def once(self, key: Any, work_out: Callable[[], _T]) -> _T:
        """What is worked out of the program as it stands, once for each key: several axes ask for it."""
        if key not in self._known:
            self._known[key] = work_out()
        return self._known[key]

    def members_of(self, node: fx.Node) -> int:
        """How many nodes of the deep program a node stands for, itself counted."""
        if not self.members:
            return 1
        # What moves a weight runs in no module, but its record names the weight.
        record = node.meta.get("collective")
        name = node.name if record is None else record.node
        return self.members.get(name) or self.members.get(numbered_module(module_path(node)) or "", 1)

    def user_inputs(self) -> list[Input]:
        """The inputs the user gives, in order."""
        return [i for i in self.inputs if i.kind == InputKind.USER_INPUT]

    def placeholders(self) -> list[fx.Node]:
        """The placeholder nodes, in order of `inputs`."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def output_values(self) -> Sequence[Any]:
        """The values returned, in order of `outputs`."""
        values: Any = self.graph.output_node().args[0]
        # A subgraph may return one bare value.
        return values if isinstance(values, (list, tuple)) else (values,)

    def numbers_of_outputs(self) -> dict[fx.Node, list[int]]:
        """The numbers of the outputs that a node is, in order."""
        found: dict[fx.Node, list[int]] = {}
        for number, value in enumerate(self.output_values()):
            if isinstance(value, fx.Node):
                found.setdefault(value, []).append(number)
        return found

    @property
    def fake_mode(self) -> Any:
        """The fake-tensor mode of the graph's metadata; None for a graph without tensors."""
        # Asked for every value of a program; all have one mode, whatever passes do to the graph.
        if self._mode is None:
            values = (value for node in self.graph.nodes for value in tensors_in(node.meta.get("val")))
            self._mode = getattr(next(values, None), "fake_mode", None)
        return self._mode

    def modules(self) -> dict[str, str]:
        """Every module path that ran (and the containers above it), with its class name, '' where unknown."""
        return self.once("modules", self._modules)

    def _modules(self) -> dict[str, str]:
        found: dict[str, str] = {}
        seen: set[tuple[Any, ...]] = set()
        for node in self.graph.nodes:
            stack = tuple((node.meta.get("nn_module_stack") or {}).values())
            if stack in seen or module_path(node) in found:
                continue
            seen.add(stack)
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

    def gradients(self) -> dict[int, str]:
        """For each output that is a gradient: the name of the placeholder that it is the gradient of."""
        by_target = {i.target: i.name for i in self.inputs if i.is_state}
        return {
            index: by_target.get(output.target, str(output.target))
            for index, output in enumerate(self.outputs)
            if output.kind in GRADIENT_KINDS
        }

    @property
    def is_joint(self) -> bool:
        """Whether it gives a loss and gradients, and is for training."""
        return is_joint(self.outputs)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a node's metadata."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, torch.Tensor)]
