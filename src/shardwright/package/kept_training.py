"""The state of an optimiser in a package: its tensors whole or in part, and as `torch` takes it in one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from shardwright.errors import PackageError
from shardwright.package.manifest import Manifest
from shardwright.package.stored import StoredWeights
from shardwright.package.stream import TensorSlot
from shardwright.package.training_state import TrainingEntry, from_json
from shardwright.program.program import Program


@dataclass(frozen=True, slots=True)
class KeptTraining:
    """What a package keeps of an optimiser. ``moments``: its whole tensors, by their names in files."""

    entry: TrainingEntry
    moments: StoredWeights

    def slots(self, local: Program) -> list[TensorSlot]:
        """The places of one rank's pieces in its file."""
        return [
            TensorSlot(moment.name, getattr(torch, moment.dtype), local.weights[moment.parameter].shape)
            for moment in self.entry.moments
        ]


def kept_training(folder: Path, manifest: Manifest) -> KeptTraining | None:
    """What a package keeps of an optimiser, if anything; raises `PackageError` for files that are not as it says."""
    if manifest.training is None:
        return None
    known = {entry.name: entry for entry in manifest.tensors}
    tensors = [
        msgspec.structs.replace(known[moment.parameter], name=moment.name, dtype=moment.dtype)
        for moment in manifest.training.moments
    ]
    view = msgspec.structs.replace(manifest, weights=manifest.training.files, tensors=tensors)
    return KeptTraining(manifest.training, StoredWeights(folder, view))


def optimizer_state(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The whole state of a package's optimiser by the names of parameters, as `torch.distributed.checkpoint` has it."""
    kept = kept_training(folder, manifest)
    if kept is None:
        raise PackageError(f"the package {folder} keeps no optimiser's state{WRITE_IT}")
    entry = kept.entry
    state: dict[str, dict[str, Any]] = {}
    for name, numbers in entry.numbers.items():
        state[name] = {key: from_json(value) for key, value in numbers.items()}
    for moment in entry.moments:
        state.setdefault(moment.parameter, {})[moment.key] = kept.moments.read(moment.name)
    groups = [{**read_options(group.options), "params": list(group.parameters)} for group in entry.groups]
    return {"state": state, "param_groups": groups}


def read_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an optimiser's group."""
    return {key: from_json(value) for key, value in options.items()}


WRITE_IT = "\n  try: step.save(path, optimizer), on every rank"
