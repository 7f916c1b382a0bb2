"""Inputs and outputs as safetensors files, by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.export import ExportedProgram

from shardwright.errors import Finding, InputError, near_misses, raise_findings
from shardwright.layout.dtypes import check_storable
from shardwright.layout.values import check_file
from shardwright.program.atomic import written_whole
from shardwright.program.read import constant_inputs, user_input_names
from shardwright.program.signature import arguments, format_constant, in_structure


def read_inputs(
    path: str | os.PathLike[str], names: Sequence[str], constants: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, which must be exactly ``names``. ``constants``: name → value at export."""
    file = check_file(path, "inputs", error=InputError)
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read inputs from {path}: {error}\n  try: safetensors.torch.save_file(…)") from error
    findings = [Finding(f"{path} lacks input {name!r}") for name in names if name not in found]
    for name in found:
        if name in constants:
            findings.append(
                Finding(
                    f"{path} holds {name!r}, which was the constant {constants[name]} at export",
                    remedies=(f"leave {name!r} out: the program computes with {constants[name]}",),
                )
            )
        elif name not in names:
            close = tuple(map(repr, near_misses(name, names)))
            findings.append(Finding(f"{path} holds {name!r}, which is not an input", remedies=close))
    raise_findings(InputError, findings, summary="the inputs do not fit the program")
    return found


def write_outputs(path: str | os.PathLike[str], outputs: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to a safetensors file, whole or not at all; raises `InputError` for dtypes that it cannot hold."""
    check_storable({key: (value.dtype, value.shape) for key, value in outputs.items()}, InputError)
    try:
        with written_whole(Path(path)) as draft:
            save_file({key: value.detach().cpu().contiguous().clone() for key, value in outputs.items()}, draft)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}") from error


def example_inputs(exported: ExportedProgram, path: Path | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs: from a file, or those the program was exported with."""
    if path is None:
        if exported.example_inputs is None:
            raise InputError("the program carries no example inputs\n  try: --inputs FILE.safetensors")
        args, kwargs = exported.example_inputs
        return tuple(args), dict(kwargs)
    constants = {name: format_constant(value) for name, value in constant_inputs(exported).items()}
    names = [name for name in user_input_names(exported) if name not in constants]
    return named_inputs(exported, read_inputs(path, names, constants))


def named_inputs(
    exported: ExportedProgram, found: Mapping[str, torch.Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs from tensors by name; constants are what they were at export."""
    symbols = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    values: dict[str, Any] = {**constant_inputs(exported), **found}
    for name, value in found.items():
        # A file holds tensors only, so a number that may change is a tensor of one there.
        if not isinstance(symbols[name], torch.Tensor) and value.numel() == 1:
            values[name] = value.item()
    return in_structure(arguments(exported), values)
