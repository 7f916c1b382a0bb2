"""A rank's compiled program as a module that is called as the original is."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from shardwright.errors import InputError, PackageError
from shardwright.lean.columns import turn
from shardwright.program.program import Program, held_by
from shardwright.program.read import read
from shardwright.program.signature import unflatten_outputs
from shardwright.run.aot.compiled_manifest import CompiledRank
from shardwright.run.aot.machine import CompiledProgram
from shardwright.run.devices import home_of


class CompiledModule(nn.Module):
    """Compiled code, and the state it reads and writes in place: the tensors of ``exported``."""

    def __init__(self, exported: ExportedProgram, compiled: CompiledRank) -> None:
        super().__init__()
        self._program: Program = read(exported)
        self._entry = compiled.entry
        held = held_by(exported)
        self._device = home_of(exported)
        if self._device.type != compiled.device:
            raise PackageError(
                f"{compiled.program} was compiled for {compiled.device}, not for {self._device.type}\n"
                "  try: the device it was exported for, or another backend"
            )
        # Code is compiled for dense tensors, as they lie in files, but for those that it reads faster by columns.
        columns = set(self._entry.columns)
        turn([[held[name]] for name in self._entry.columns])
        self._state = [
            held[name].detach() if name in columns else held[name].detach().contiguous() for name in self._entry.state
        ]
        written = {
            spec.target for spec in exported.graph_signature.output_specs if spec.kind == OutputKind.USER_INPUT_MUTATION
        }
        names = [item.name for item in self._program.user_inputs()]
        self._written = [names[position] in written for position in self._entry.inputs]
        self._compiled = CompiledProgram(compiled.program, compiled.runner, self._device)

    def forward(self, flat: Sequence[Any]) -> Any:
        """The original's outputs for its flat inputs, which the caller has checked."""
        given = [flat[position] for position in self._entry.inputs]
        elsewhere = [str(tensor.device) for tensor in given if tensor.device != self._device]
        if elsewhere:
            raise InputError(f"inputs are on {elsewhere[0]}, the compiled program is on {self._device}")
        dense = [tensor.detach().contiguous() for tensor in given]
        found = self._compiled([*self._state, *dense])
        for tensor, passed, written in zip(given, dense, self._written, strict=True):
            if written and passed.data_ptr() != tensor.data_ptr():
                tensor.copy_(passed)
        values: dict[int, Any] = dict(self._entry.constants)
        values.update(zip(self._entry.outputs, found, strict=True))
        return unflatten_outputs(self._program, [values[position] for position in sorted(values)])
