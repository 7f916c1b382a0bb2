"""From a package back to whole tensors, and from one number of ranks to another."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from shardwright.errors import PackageError, first_line
from shardwright.layout.values import check_free, check_path
from shardwright.package.kept_training import optimizer_state
from shardwright.package.manifest import Manifest, read_manifest
from shardwright.package.save import Progress
from shardwright.package.stored import StoredWeights
from shardwright.package.stream import TensorSlot, write_tensors
from shardwright.program.atomic import written_together
from shardwright.program.program import STATE_KINDS


def gather(
    package: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    optimizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Write the original state dict, whole, to the safetensors file ``output``, which must not exist; its names.

    Parameters and persistent buffers, to the bit; a tied tensor once, under its first name. The largest tensor is in
    memory at a time. ``optimizer``: a file to write, too, with the state of the optimiser that was saved with the
    weights: by the names of parameters, as ``torch.distributed.checkpoint.state_dict.set_optimizer_state_dict`` takes
    what ``torch.load`` reads of it. All of it is in memory. Raises `PackageError`; nothing is left behind then.
    """
    folder = check_path(package, "the package", error=PackageError)
    manifest = read_manifest(folder)
    target = check_free(output, "the output", error=PackageError)
    beside = None if optimizer is None else check_free(optimizer, "the optimiser's file", error=PackageError)
    if beside == target:
        raise PackageError(f"weights and the optimiser's state would both be written to {target}")
    state = None if beside is None else optimizer_state(folder, manifest)
    stored = StoredWeights(folder, manifest)
    slots = [
        TensorSlot(entry.name, getattr(torch, entry.dtype), tuple(entry.shape))
        for entry in manifest.tensors
        if entry.in_state and not entry.alias_of
    ]
    total, done = sum(slot.num_bytes for slot in slots), 0

    def report(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress("gathering", done, total)

    try:
        with written_together(*(path for path in (target, beside) if path is not None)) as drafts:
            write_tensors(drafts[0], slots, stored.read, report)
            if beside is not None:
                _write_state(state, drafts[1])
    except OSError as error:
        raise PackageError(f"cannot write {target}: {error}\n  nothing was left behind") from error
    return sorted(slot.name for slot in slots)


def _write_state(state: Any, path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # So torch reports a write that failed.
        raise OSError(first_line(error)) from error


def check_described(exported: ExportedProgram, manifest: Manifest, folder: Path) -> None:
    """Check the tensors of the original program against the manifest, which says where their pieces are."""
    described = {entry.name: (tuple(entry.shape), getattr(torch, entry.dtype)) for entry in manifest.tensors}
    for spec in exported.graph_signature.input_specs:
        if spec.kind not in STATE_KINDS:
            continue
        name = str(spec.target)
        held = exported.state_dict.get(name, exported.constants.get(name))
        assert isinstance(held, torch.Tensor), "read_graph holds every tensor that a program names"
        if described.get(name) != (tuple(held.shape), held.dtype):
            other = f"says {described[name][0]} and {described[name][1]}" if name in described else "does not name it"
            raise PackageError(
                f"{folder / manifest.original} has {name!r} of shape {tuple(held.shape)} and {held.dtype}, "
                f"the manifest {other}\n  try: copy the whole folder again"
            )
