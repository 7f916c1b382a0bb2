"""The tensors of a checkpoint folder: which safetensors file holds which, and slices of them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from shardwright.errors import CheckpointError
from shardwright.package.regions import WholeTensor
from shardwright.package.slices import copy_slice

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True)
class StoredTensor(WholeTensor):
    """One tensor of a safetensors file; nothing of its data is read before it is asked for."""

    file: Path
    name: str

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the tensor into ``out``."""
        try:
            copy_slice(self.file, self.name, box, out)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {self.name!r} from {self.file}: {error}") from error

    def read(self) -> torch.Tensor:
        """The whole tensor."""
        try:
            with safe_open(self.file, framework="pt") as file:
                return file.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {self.name!r} from {self.file}: {error}") from error


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's safetensors, one file or several under an index.

    Raises `CheckpointError` for a folder without safetensors, or with a missing, damaged or contradicting file.
    """
    found: dict[str, StoredTensor] = {}
    wanted = _weight_map(folder)
    for file in sorted(set(wanted.values())):
        held = _tensors_of(folder / file)
        absent = [name for name, place in wanted.items() if place == file and name and name not in held]
        if absent:
            raise CheckpointError(f"{folder / INDEX_NAME} says that {file} holds {absent[0]!r}, but it does not")
        found.update(held)
    return found


def files_digest(files: Iterable[Path]) -> str:
    """A digest of files' names, sizes and times of change."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _weight_map(folder: Path) -> dict[str, str]:
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = {str(name): str(place) for name, place in found.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is no index of safetensors files: {error!r}") from error
        outside = [place for place in names.values() if Path(place).name != place]
        if outside:
            raise CheckpointError(f"{index} names a file outside its folder: {outside[0]!r}")
        return names
    if (folder / SINGLE_NAME).is_file():
        return {"": SINGLE_NAME}
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    raise CheckpointError(
        f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}"
        + (f"; its weights are pickled ({pickled[0]}), which are never opened" if pickled else "")
        + "\n  try: model.save_pretrained(folder), which writes safetensors"
    )


def _tensors_of(file: Path) -> dict[str, StoredTensor]:
    if not file.is_file():
        raise CheckpointError(f"the checkpoint lacks {file}\n  try: download it again")
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            return {name: StoredTensor(tuple(opened.get_slice(name).get_shape()), file, name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is no safetensors file, or it is truncated: {error}") from error
