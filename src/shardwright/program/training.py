"""Programs for training: a module that gives the loss, and adds to the gradients of its parameters.

A joint program computes its gradients itself, so that autograd has nothing to record: a call fills ``.grad`` as
``loss.backward()`` would, and any optimiser of torch that works element by element goes on from there.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from shardwright.errors import InputError, ProgramError
from shardwright.program.inputs import bind_expected, expected_inputs
from shardwright.program.program import GRADIENT_KINDS, RETURNED, STATE_KINDS, Program, held_by
from shardwright.program.read import read
from shardwright.program.signature import Signature, unflatten_outputs
from shardwright.program.torch_private import is_view, pytree, tables_of
from shardwright.program.write import parts_of_exported, write


class TrainingProgram(ExportedProgram):
    """A joint `ExportedProgram` whose module is a `TrainingStep`.

    ``parameters_of_forward``: how the original is called; the module is called so too.
    """

    parameters_of_forward: Signature = ()

    def module(self, *_: Any, **__: Any) -> nn.Module:  # type: ignore[override]
        """A `TrainingStep` with the program's own parameters and buffers."""
        return TrainingStep(self, self.parameters_of_forward)


def for_training(exported: ExportedProgram, signature: Signature) -> TrainingProgram:
    """The same joint program with a module that can be called."""
    made = TrainingProgram(**parts_of_exported(exported))
    made.parameters_of_forward = signature
    return made


def write_for_training(program: Program, signature: Signature) -> TrainingProgram:
    """The `ExportedProgram` of a joint program, whose weights are made now."""
    return for_training(write(program), signature)


class TrainingStep(nn.Module):
    """The parameters and buffers of a joint program under their names; a call gives the loss and fills ``.grad``.

    Parameters that have no gradient in the program require none. Tied names are one parameter.
    """

    def __init__(self, exported: ExportedProgram, signature: Signature = (), run: Any = None) -> None:
        super().__init__()
        self.exported: ExportedProgram = exported
        self._program = read(exported)
        self._expected = expected_inputs(self._program, signature or None)
        self._run = (exported.graph_module if run is None else run,)
        trained = {spec.target for spec in exported.graph_signature.output_specs if spec.kind in GRADIENT_KINDS}
        held, made = held_by(exported), dict[int, torch.Tensor]()
        leaders = {id(held[name]) for name in trained if name in held}
        self._constants: dict[str, Any] = {}
        for spec in exported.graph_signature.input_specs:
            if spec.kind not in STATE_KINDS or spec.target is None:
                continue
            tensor = held[spec.target]
            if spec.kind == InputKind.CONSTANT_TENSOR:
                self._constants[spec.target] = tensor
            elif spec.kind == InputKind.PARAMETER:
                if id(tensor) not in made:
                    made[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=id(tensor) in leaders)
                _place(self, spec.target, made[id(tensor)])
            else:
                _place(self, spec.target, made.setdefault(id(tensor), tensor.detach()), persistent=spec.persistent)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, without a graph behind it; gradients are added to ``.grad``, buffers take their new values.

        Raises `InputError` where the inputs do not fit, or one requires a gradient, which it would not get.
        """
        return self.run_flat(self.bind_inputs(args, kwargs))

    def bind_inputs(self, args: Any, kwargs: Any) -> Any:
        """What a call was given, in the order of the program's inputs; raises `InputError`."""
        _refuse_gradients(args, kwargs)
        return bind_expected(self._expected, args, kwargs)

    def run_flat(self, inputs: Any) -> Any:
        """As a call, with this rank's inputs in the order of the program's."""
        names, given = {item.name: item for item in self._program.inputs}, iter(inputs)
        values = {
            name: self._tensor(str(item.target)) if item.is_state else next(given) for name, item in names.items()
        }
        with torch.no_grad():
            found = self._run[0](*values.values())
            found = found if isinstance(found, (list, tuple)) else (found,)
            return self._store(found, values)

    def _store(self, found: Any, values: Mapping[str, Any]) -> Any:
        """Put gradients and buffers where they belong; what is left, in the structure that the model returned."""
        returned, mine = [], {id(value) for value in values.values()}
        kept = {value.untyped_storage().data_ptr() for value in values.values() if isinstance(value, torch.Tensor)}
        mutated = self._program.mutations()
        # What is written is read first: an output may be what another one writes to.
        writes = [(position, value.clone() if id(value) in mine else value) for position, value in enumerate(found)]
        for position, value in writes:
            output = self._program.outputs[position]
            if output.kind == OutputKind.GRADIENT_TO_PARAMETER:
                self._add_gradient(self._tensor(str(output.target)), value, kept)
            elif position in mutated:
                values[mutated[position]].copy_(value)
            elif output.kind in RETURNED:
                returned.append(value.clone() if isinstance(value, torch.Tensor) else value)
        return unflatten_outputs(self._program, returned)

    @staticmethod
    def _add_gradient(parameter: torch.Tensor, value: torch.Tensor, kept: set[int]) -> None:
        """Add to ``.grad``. A first gradient is taken as it is where no other holds its memory and it lies as usual."""
        if parameter.grad is not None:
            parameter.grad.add_(value)
            return
        place = value.untyped_storage().data_ptr()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        if value.stride() != parameter.stride() or not whole or place in kept:
            value = torch.empty_like(parameter).copy_(value)
            place = value.untyped_storage().data_ptr()
        kept.add(place)
        # Of the same memory, but no view: torch lets nobody scale what was made a view here.
        parameter.grad = _unlinked(value) if is_view(value) else value

    def train(self, mode: bool = True) -> Self:
        """Nothing to do: a step computes in the mode that its model was exported in. Raises `ProgramError` for
        ``eval()``, which would not turn dropout and batch statistics off.
        """
        if not mode:
            raise ProgramError(
                "eval() cannot turn dropout and batch statistics off: a step computes in the mode that its model was "
                "exported in\n  try: give the model itself, by load_state_dict, what `gather` writes of step.save(…)"
            )
        return self

    def tensors(self) -> dict[str, Any]:
        """Parameters, buffers and constants as they are now, by name."""
        return {str(item.target): self._tensor(str(item.target)) for item in self._program.inputs if item.is_state}

    def _tensor(self, name: str) -> Any:
        if name in self._constants:
            return self._constants[name]
        *path, last = name.split(".")
        held = tables_of(self)
        for part in path:
            inner = held.modules[part]
            assert inner is not None, "a program's parts are there"
            held = tables_of(inner)
        return held.parameters[last] if last in held.parameters else held.buffers[last]


def _unlinked(view: torch.Tensor) -> torch.Tensor:
    """The same memory, no longer a view of a tensor."""
    return view.new_empty(0).set_(view.untyped_storage(), view.storage_offset(), view.shape, view.stride())


def _refuse_gradients(args: Any, kwargs: Any) -> None:
    """Raise `InputError` where a call would be recorded for a backward pass through its inputs."""
    leaves = pytree.tree_leaves((args, kwargs))
    if torch.is_grad_enabled() and any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        raise InputError(
            "an input requires a gradient, and a step for training gives gradients of parameters alone\n"
            "  try: give x.detach(); or export one model of this and of what computes x, and train both"
        )


def _place(root: nn.Module, name: str, tensor: torch.Tensor, *, persistent: bool | None = True) -> None:
    """Register a tensor under a dotted name, in plain modules that are made on the way.

    By the tables of modules: a model may call a part what a module calls something else (``save``, ``forward``).
    """
    *path, last = name.split(".")
    for part in path:
        root = tables_of(root).modules.setdefault(part, nn.Module())  # type: ignore[assignment]
    held = tables_of(root)
    if isinstance(tensor, nn.Parameter):
        held.parameters[last] = tensor
        return
    held.buffers[last] = tensor
    if not persistent:
        held.non_persistent.add(last)
