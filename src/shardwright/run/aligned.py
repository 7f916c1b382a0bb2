"""Tensors that begin where vector instructions read.

torch's matmul of int8 weights on a CPU, which compiled programs call, takes it for granted that its operands do. What
torch allocates does; what lies in a mapped file, or begins inside another tensor, need not.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from shardwright.layout.alignment import ALIGNMENT
from shardwright.program.program import Program, held_by


def aligned(value: Any) -> Any:
    """A tensor in dense memory of a CPU, moved to where it is aligned; anything else as it is."""
    is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return value.clone() if is_dense and value.data_ptr() % ALIGNMENT else value


def aligned_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight of int8 aligned; others as they lie: they may be large, and nothing asks how they lie."""
    return aligned(weight) if _is_meant(weight) else weight


def inputs_to_align(exported: ExportedProgram, program: Program) -> frozenset[int]:
    """Which of a program's flat inputs int8 weights may meet; those that it writes to have to stay where they are."""
    if not any(_is_meant(held) for held in held_by(exported).values()):
        return frozenset()
    specs = exported.graph_signature.output_specs
    written = {spec.target for spec in specs if spec.kind == OutputKind.USER_INPUT_MUTATION}
    return frozenset(number for number, item in enumerate(program.user_inputs()) if item.name not in written)


def with_aligned(flat: Sequence[Any], which: Collection[int]) -> list[Any]:
    """Flat inputs with ``which`` of them aligned."""
    return [aligned(value) if number in which else value for number, value in enumerate(flat)]


def _is_meant(weight: object) -> bool:
    return isinstance(weight, torch.Tensor) and weight.dtype == torch.int8 and weight.dim() == 2
