"""What `shardwright compile` leaves in a package: the folder ``compiled`` with a manifest of its own.

Its files are native code. They are opened only when a user asks for the backend "aoti", after their checksums, and
after what they were compiled for has been compared with the package and the machine.
"""

from pathlib import Path
from typing import Any

import msgspec

from shardwright.errors import PackageError
from shardwright.package.manifest import FileEntry, Manifest, check_file_names, check_package_file, check_regular
from shardwright.run.aot.machine import misfits

COMPILED_FOLDER = "compiled"
COMPILED_MANIFEST = "compiled.json"
COMPILED_VERSION = 2


class ProgramEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One compiled graph. ``graph_sha256``: of the graph file it was made from.

    ``state``: names of the tensors to pass first; ``columns``: those of them that lie column by column. ``inputs``,
    ``outputs``: positions, among the model's flat inputs and outputs, of those that are tensors; ``constants``: the
    other outputs by position.
    """

    file: str
    graph_sha256: str
    state: list[str]
    columns: list[str]
    inputs: list[int]
    outputs: list[int]
    constants: dict[int, bool | int | float | str | None]


class CompiledManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``target``: what the code was compiled for. ``groups``: group name by mesh axis. ``ranks``: program by rank."""

    format_version: int
    mesh: dict[str, int]
    target: dict[str, str]
    groups: dict[str, str]
    runner: str
    ranks: list[int]
    programs: list[ProgramEntry]
    files: list[FileEntry]


class CompiledRank(msgspec.Struct, frozen=True):
    """What one rank opens: checked files, and how to call them."""

    program: Path
    runner: Path
    entry: ProgramEntry
    groups: dict[str, str]
    device: str


def find_compiled(folder: Path, manifest: Manifest, rank: int, *, contents: bool = True) -> CompiledRank:
    """A rank's compiled program, checked but not opened.

    Raises `PackageError` when the package is not compiled, when a file is missing or altered, or when it was compiled
    from another graph, for other ranks, for another torch or for another machine.
    """
    place = folder / COMPILED_FOLDER
    path = place / COMPILED_MANIFEST
    if place.is_symlink():
        raise PackageError(f"{place} is a link, not a folder: compiled code lies in the package itself")
    if not check_regular(path):
        raise PackageError(f"the package {folder} is not compiled\n  try: shardwright compile {folder}")
    try:
        version = msgspec.json.decode(path.read_bytes(), type=dict[str, Any]).get("format_version")
        if version != COMPILED_VERSION:
            raise PackageError(
                f"{path} has format version {version!r}; this Shardwright reads {COMPILED_VERSION}\n{_remedy(folder)}"
            )
        found = msgspec.json.decode(path.read_bytes(), type=CompiledManifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PackageError(f"{path} is damaged: {error}\n{_remedy(folder)}") from error
    files = {entry.name: entry for entry in found.files}
    graph = {entry.name: entry.sha256 for entry in manifest.files}[manifest.graphs[rank]]
    problems = []
    if found.mesh != manifest.mesh or len(found.ranks) != manifest.num_ranks:
        problems.append(f"it was compiled for {len(found.ranks)} ranks ({found.mesh}), not {manifest.num_ranks}")
    elif not 0 <= found.ranks[rank] < len(found.programs):
        problems.append(f"it names no program for rank {rank}")
    elif found.programs[found.ranks[rank]].graph_sha256 != graph:
        problems.append("it was compiled from other graphs than the package holds now")
    problems += misfits(found.target)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise PackageError(f"{place} does not fit:{lines}\n{_remedy(folder)}")
    check_file_names(files, path)
    entry = found.programs[found.ranks[rank]]
    missing = [name for name in (entry.file, found.runner) if name not in files]
    if missing:
        raise PackageError(f"{path} contradicts itself: it does not list {missing}")
    program, runner = (check_package_file(place, files[name], contents=contents) for name in (entry.file, found.runner))
    return CompiledRank(program, runner, entry, found.groups, found.target.get("device", "cpu"))


def _remedy(folder: Path) -> str:
    return f"  try: remove {folder / COMPILED_FOLDER} and run `shardwright compile {folder}` on this machine"
