"""Check what a user passes against what the program was exported with, before anything runs."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from shardwright.errors import Finding, InputError, raise_findings
from shardwright.program import Program
from shardwright.simulate import flat_inputs


def check_inputs(program: Program, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Raise one `InputError` naming every input of the wrong structure, rank, size or dtype."""
    expected = program.user_inputs()
    spec = program.source.call_spec.in_spec
    try:
        given = flat_inputs(program, tuple(args), kwargs)
        same = spec is None or pytree.tree_structure((tuple(args), dict(kwargs))).num_leaves == spec.num_leaves
    except (KeyError, ValueError, IndexError):
        given, same = [], False
    if not same or len(given) != len(expected):
        raise InputError(
            f"the program takes {len(expected)} inputs ({', '.join(i.name for i in expected)}), got {len(given)}\n"
            f"  expected structure: {spec}"
        )
    findings = []
    nodes = {node.name: node for node in program.placeholders()}
    for item, value in zip(expected, given, strict=True):
        problem = _mismatch(nodes[item.name].meta.get("val"), value)
        if problem:
            findings.append(Finding(f"input {item.name!r} {problem}"))
    raise_findings(InputError, findings, summary="the inputs do not fit the program")


def _mismatch(wanted: Any, value: Any) -> str:
    if not isinstance(wanted, torch.Tensor):
        return ""
    if not isinstance(value, torch.Tensor):
        return f"must be a tensor, got {type(value).__name__}"
    if value.dtype != wanted.dtype:
        return f"must have dtype {wanted.dtype}, got {value.dtype}"
    if value.dim() != wanted.dim():
        return f"must have {wanted.dim()} dims {_shape(wanted)}, got {tuple(value.shape)}"
    wrong = [d for d, size in enumerate(wanted.shape) if isinstance(size, int) and size != value.shape[d]]
    if wrong:
        return f"must have shape {_shape(wanted)}, got {tuple(value.shape)}: dim {wrong[0]} differs"
    return ""


def _shape(tensor: torch.Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"
