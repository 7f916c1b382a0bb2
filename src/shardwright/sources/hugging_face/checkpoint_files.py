"""The tensors of a checkpoint folder: which safetensors file holds which, and slices of them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shardwright.errors import CheckpointError, Finding, raise_findings
from shardwright.layout.box import WholeTensor
from shardwright.layout.dtypes import DTYPES
from shardwright.package.slices import copy_slice

INDEX_SUFFIX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Which safetensors files of a folder are read: the first of ``names`` that is there; ``chosen``: this one.

    ``stem``: what they are called before the first dot.
    """

    stem: str
    names: tuple[str, str]
    chosen: str | None = None

    @staticmethod
    def of(stem: str, variant: str | None = None, *, index_first: bool = False) -> "WeightFiles":
        """A single file and an index. ``variant``: of these alone, as in ``model.fp16.safetensors``."""
        part = f".{variant}" if variant else ""
        single, index = f"{stem}{part}.safetensors", f"{stem}.safetensors.index{part}.json"
        return WeightFiles(stem, (index, single) if index_first else (single, index))


MODEL_FILES = WeightFiles.of("model")
"""What transformers reads: the single file where there is one."""

_VARIANT = re.compile(r"^[^.]+\.(?:(\w+?)(?:-\d+-of-\d+)?\.safetensors|safetensors\.index\.(\w+)\.json)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Unused:
    """What is in a checkpoint and is not read, and why: a tensor of a file, or (``name`` empty) the whole file."""

    name: str
    file: str
    why: str

    def __str__(self) -> str:
        return f"{self.name or self.file} ({self.why})"


@dataclass(frozen=True)
class StoredTensor(WholeTensor):
    """One tensor of a safetensors file; nothing of its data is read before it is asked for."""

    file: Path
    name: str
    dtype: torch.dtype

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


def stored_tensors(folder: Path, files: WeightFiles = MODEL_FILES) -> tuple[dict[str, StoredTensor], list[Unused]]:
    """Every tensor of a folder's safetensors by name, and what of them is not read.

    An index gives every name one file; other tensors of that file are copies that something left behind.

    Raises `CheckpointError` for a folder without safetensors, and with every missing, damaged or contradicting file.
    """
    main = _main_file(folder, files)
    if not _is_index(main):
        return _tensors_of(main), _other_files(folder, {main}, main)
    places = _weight_map(main)
    named: dict[str, list[str]] = {}
    for name, place in places.items():
        named.setdefault(place, []).append(name)
    held = _files_of(main, sorted(named))
    _check_index(main, named, held)
    found = {name: held[place][name] for name, place in places.items()}
    unused = [
        Unused(name, place, f"the index gives it to {places[name]}" if name in places else "the index does not name it")
        for place, tensors in held.items()
        for name in sorted(tensors)
        if places.get(name) != place
    ]
    return found, [*unused, *_other_files(folder, {main, *(folder / place for place in named)}, main)]


def header_text(file: Path) -> dict[str, str]:
    """The texts that the header of a safetensors file holds beside its tensors; raises `CheckpointError`."""
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the header of {file}: {error}") from error


def index_files(folder: Path, files: WeightFiles = MODEL_FILES) -> list[Path]:
    """The file that says where tensors are, where there is one."""
    main = _main_file(folder, files)
    return [main] if _is_index(main) else []


def files_digest(files: Iterable[Path]) -> str:
    """A digest of files' names, sizes and times of change."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _is_index(file: Path) -> bool:
    return file.suffix == ".json"


def _main_file(folder: Path, files: WeightFiles) -> Path:
    """The safetensors file, or the index of several, that is read."""
    if files.chosen is not None:
        if _leads_outside(files.chosen):
            raise CheckpointError(f"{folder}: the configuration names weights outside its folder: {files.chosen!r}")
        if not files.chosen.endswith((".safetensors", INDEX_SUFFIX)) or not (folder / files.chosen).is_file():
            raise CheckpointError(
                f"{folder}: the configuration names {files.chosen!r} as its weights, which is not a safetensors file "
                "there"
            )
        return folder / files.chosen
    for name in files.names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds neither {' nor '.join(files.names)}{_instead(folder, files)}")


def _instead(folder: Path, files: WeightFiles) -> str:
    """What a folder holds instead of the weights that are read, and what to try."""
    found = _VARIANT.findall("\n".join(sorted(path.name for path in folder.glob(f"{files.stem}.*"))))
    variants = sorted({one or other for one, other in found} - {""})
    if variants:
        return f"; it holds the variant {', '.join(map(repr, variants))}\n  try: variant={variants[0]!r}"
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    return (
        f"; its weights are pickled ({pickled[0]}), which are never opened" if pickled else ""
    ) + "\n  try: model.save_pretrained(folder), which writes safetensors"


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(place) for name, place in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}") from error
    outside = sorted({place for place in names.values() if _leads_outside(place)})
    if outside:
        raise CheckpointError(f"{index} names files outside its folder: {', '.join(map(repr, outside[:4]))}")
    return names


def _leads_outside(place: str) -> bool:
    path = Path(place)
    return path.is_absolute() or ".." in path.parts


def _files_of(index: Path, places: Iterable[str]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of every file that an index names, by file and name."""
    found, findings = {}, []
    for place in places:
        try:
            found[place] = _tensors_of(index.parent / place)
        except CheckpointError as error:
            what, *remedies = str(error).split("\n  try: ")
            findings.append(Finding(what, remedies=tuple(remedies)))
    raise_findings(CheckpointError, findings, summary=f"{index} names files that cannot be read")
    return found


def _check_index(
    index: Path, named: Mapping[str, Sequence[str]], held: Mapping[str, Mapping[str, StoredTensor]]
) -> None:
    """Raise `CheckpointError` when a file lacks tensors that the index says it holds."""
    findings = []
    for place, names in named.items():
        absent = [name for name in names if name not in held[place]]
        elsewhere = next(((name, other) for name in absent for other in held if name in held[other]), None)
        if absent:
            some = ", ".join(map(repr, absent[:4])) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
            remedy = f"the index is of other files: {elsewhere[1]} holds {elsewhere[0]!r}" if elsewhere else ""
            findings.append(
                Finding(
                    f"{index} says that {place} holds {some}, but it does not",
                    remedies=(remedy,) if remedy else ("download the folder again",),
                )
            )
    raise_findings(CheckpointError, findings, summary="the checkpoint contradicts itself")


def _other_files(folder: Path, read: set[Path], main: Path) -> list[Unused]:
    """Safetensors files of a folder that nothing reads."""
    others = sorted(path for end in (".safetensors", ".safetensors.index*.json") for path in folder.glob(f"*{end}"))
    return [Unused("", path.name, f"{main.name} is read") for path in others if path not in read]


def _tensors_of(file: Path) -> dict[str, StoredTensor]:
    if not file.is_file():
        raise CheckpointError(f"the checkpoint lacks {file}\n  try: download it again")
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: _stored(opened.get_slice(name), file, name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a safetensors file, or it is truncated: {error}") from error


def _stored(part: Any, file: Path, name: str) -> StoredTensor:
    dtype = next((dtype for dtype, code in DTYPES.items() if code == part.get_dtype()), None)
    if dtype is None:
        raise CheckpointError(f"{file}: {name!r} has dtype {part.get_dtype()}, which torch does not have")
    return StoredTensor(tuple(part.get_shape()), file, name, dtype)
