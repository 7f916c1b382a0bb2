"""The manifest of a package: what is in the folder, checked before anything else is opened."""

import hashlib
import importlib.metadata
import math
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from shardwright.errors import PackageError
from shardwright.layout.mesh import Mesh
from shardwright.package.training_state import TrainingEntry, check_training, is_dtype
from shardwright.program.collectives import CollectiveKind
from shardwright.program.signature import How, Parameter, Signature

VERSION = importlib.metadata.version("shardwright")
"""Of this package."""

FORMAT_VERSION = 3
MANIFEST_NAME = "shardwright.json"
_MAX_NAME = 200
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the package: name within the folder, size in bytes, SHA-256 in hex."""

    name: str
    num_bytes: int
    sha256: str


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parameter, buffer or constant: global shape, dtype, and its layout on each mesh axis as plan files write it.

    ``elsewhere``: axis → coordinates on the axes before (``"1,0"``) → its layout there, where another is said than in
    ``layouts``. ``alias_of``: the name that a tied tensor is stored under. ``zeros``: it is not stored but made on
    loading. ``in_state``: whether it is part of the original's state dict.
    """

    name: str
    kind: str
    shape: list[int]
    dtype: str
    layouts: dict[str, Any]
    alias_of: str = ""
    zeros: bool = False
    in_state: bool = True
    elsewhere: dict[str, dict[str, Any]] = {}


def format_coordinates(coordinates: Sequence[int]) -> str:
    """Coordinates as a key."""
    return ",".join(map(str, coordinates))


class ValueEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user input or output: sizes as numbers or, where dynamic, as text.

    ``constant``: of an input that was a constant at export, its value as text; nothing else may be given there.
    ``layouts``, ``elsewhere``: of an input of which ranks take pieces, as `TensorEntry` has them, without axes on which
    it is whole.
    """

    name: str
    shape: list[int | str]
    dtype: str
    constant: str | None = None
    layouts: dict[str, Any] = {}
    elsewhere: dict[str, dict[str, Any]] = {}


def layout_on(entry: TensorEntry | ValueEntry, axis: str, before: Sequence[int]) -> Any:
    """The layout of what is described on an axis, for the ranks at these coordinates on the axes before."""
    at = format_coordinates(before)
    return entry.elsewhere.get(axis, {}).get(at, entry.layouts.get(axis, "replicate"))


class ParameterEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parameter of the original's ``forward``; see `shardwright.program.signature.Parameter`."""

    name: str
    how: How
    optional: bool = False
    default: str = ""


class CollectiveEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One collective of the program and its cause. ``message``: those of one number above 0 are sent together."""

    kind: str
    axis: str
    num_bytes: int
    module: str
    source: str
    cause: str
    message: int = 0


class DecoderEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What generating text needs: the tokens its key-value cache holds of a text, the ids that end a text, and of how
    many texts it holds tokens at a time (1 in packages that do not say).
    """

    cache_length: int
    end_ids: list[int]
    batch: int = 1


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a package says about itself.

    ``unions``: name → axes of the mesh that collectives run along together. ``graphs`` and ``weights``: file name by
    place in the mesh, which is the rank unless ``ranks`` lists the rank at each place. ``original``: the unsharded
    program without weights, from which the package is made anew for other ranks.
    ``extras``: further files (a tokenizer's). ``parameters``: how the original is called; absent in packages that were
    written before this was kept. ``packed_for``: the kind of CPU whose layout packed weights have, if any.
    ``training``: the state of an optimiser that was saved with the weights.
    """

    format_version: int
    shardwright_version: str
    torch_version: str
    mesh: dict[str, int]
    unions: dict[str, list[str]]
    graphs: list[str]
    weights: list[str]
    original: str
    files: list[FileEntry]
    tensors: list[TensorEntry]
    inputs: list[ValueEntry]
    outputs: list[ValueEntry]
    collectives: list[CollectiveEntry]
    plan: Any = None
    source_fingerprint: str = ""
    extras: list[str] = []
    decoder: DecoderEntry | None = None
    parameters: list[ParameterEntry] | None = None
    ranks: list[int] = []
    packed_for: str = ""
    training: TrainingEntry | None = None

    def as_mesh(self) -> Mesh:
        """The mesh the package is for."""
        unions = tuple((name, tuple(axes)) for name, axes in self.unions.items())
        return Mesh(tuple(self.mesh.items()), unions, tuple(self.ranks))

    def signature(self) -> Signature | None:
        """How the original is called, in order of its parameters; None where the package does not say."""
        if self.parameters is None:
            return None
        return tuple(Parameter(one.name, one.how, one.optional, one.default) for one in self.parameters)

    def input_names(self) -> list[str]:
        """The inputs that are given anew at every call."""
        return [entry.name for entry in self.inputs if entry.constant is None]

    def constants(self) -> dict[str, str]:
        """The inputs that were constants at export, with their values as text."""
        return {entry.name: entry.constant for entry in self.inputs if entry.constant is not None}

    @property
    def num_ranks(self) -> int:
        """The number of ranks the package is for."""
        return len(self.graphs)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a package folder; raises `PackageError` saying what is missing or wrong."""
    path = Path(folder) / MANIFEST_NAME
    if not Path(folder).is_dir():
        raise PackageError(f"{folder} is not a package folder: there is no such folder")
    check_regular(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(f"{folder} is not a package: no readable {MANIFEST_NAME} ({error.strerror})") from error
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("format_version")
        if version != FORMAT_VERSION:
            raise PackageError(
                f"{path} has format version {version!r}; this Shardwright reads version {FORMAT_VERSION}\n"
                "  try: save the package again with this version"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PackageError(f"{path} is damaged: {error}") from error
    _check(manifest, path)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a folder that is still being made."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST_NAME).write_bytes(encoded + b"\n")


def check_package_file(folder: Path, entry: FileEntry, *, contents: bool = True) -> Path:
    """The path of a package file after checking its size and (``contents``) its SHA-256."""
    path = folder / entry.name
    if not check_regular(path):
        raise PackageError(f"the package {folder} lacks {entry.name}\n  try: copy the whole folder again")
    size = path.stat().st_size
    if size != entry.num_bytes:
        raise PackageError(f"{path} has {size} bytes, the manifest says {entry.num_bytes}: it is truncated or altered")
    if contents and file_sha256(path) != entry.sha256:
        raise PackageError(f"{path} does not have the contents the manifest says: it is altered or damaged")
    return path


def read_file(folder: Path, entry: FileEntry) -> bytes:
    """The bytes of a package file, which are those that the manifest says."""
    path = check_package_file(folder, entry, contents=False)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise PackageError(f"{path} does not have the contents the manifest says: it is altered or damaged")
    return data


def check_regular(path: Path) -> bool:
    """Whether there is a file ``path``; raises `PackageError` where something else has the name.

    A link could lead out of the package, a pipe would be waited for.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        raise PackageError(
            f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file: a package holds plain files\n"
            "  try: copy the package so that links become files (cp -rL)"
        )
    return True


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(manifest: Manifest, path: Path) -> None:
    names = {entry.name for entry in manifest.files}
    product = math.prod(manifest.mesh.values())
    missing = [
        name for name in (*manifest.graphs, *manifest.weights, manifest.original, *manifest.extras) if name not in names
    ]
    if (
        missing
        or min(manifest.mesh.values(), default=0) < 1
        or product != len(manifest.graphs)
        or len(manifest.graphs) != len(manifest.weights)
    ):
        raise PackageError(f"{path} contradicts itself: mesh {manifest.mesh}, {len(manifest.graphs)} graphs, {missing}")
    if (decoder := manifest.decoder) is not None and min(decoder.cache_length, decoder.batch) < 1:
        raise PackageError(
            f"{path} contradicts itself: a cache of {decoder.batch} times {decoder.cache_length} tokens holds none"
        )
    if manifest.ranks and sorted(manifest.ranks) != list(range(product)):
        raise PackageError(f"{path} contradicts itself: its mesh {manifest.mesh} has ranks {manifest.ranks}")
    odd = [axis for axes in manifest.unions.values() for axis in axes if axis not in manifest.mesh]
    if odd:
        raise PackageError(f"{path} contradicts itself: {odd} is not an axis of its mesh {manifest.mesh}")
    _check_collectives(manifest, path)
    if len(names) != len(manifest.files):
        raise PackageError(f"{path} contradicts itself: it lists a file twice")
    check_file_names(names, path)
    _check_tensors(manifest, path)
    if manifest.training is not None:
        sizes = {entry.name: entry.num_bytes for entry in manifest.files}
        tensors = {entry.name: entry for entry in manifest.tensors}
        check_training(manifest.training, tensors, sizes, product, path)


def check_file_names(names: Iterable[str], path: Path) -> None:
    """Raise `PackageError` when a manifest, ``path``, names files outside its folder."""
    odd = [name for name in names if not is_file_name(name)]
    if odd:
        raise PackageError(f"{path} names files outside the package, or under names that no file of one has: {odd}")


def is_file_name(name: str) -> bool:
    """Whether a package may hold a file of this name: in the folder itself, not hidden, printable, of 200 bytes."""
    plain = Path(name).name == name and name.isprintable() and not name.startswith(".") and "\\" not in name
    return plain and 0 < len(name.encode(errors="replace")) <= _MAX_NAME and name != MANIFEST_NAME


def _check_collectives(manifest: Manifest, path: Path) -> None:
    axes = {*manifest.mesh, *manifest.unions}
    for one in manifest.collectives:
        if one.kind not in {*CollectiveKind} or one.axis not in axes or one.num_bytes < 0 or one.message < 0:
            raise PackageError(
                f"{path} contradicts itself: a collective {one.kind!r} of {one.num_bytes} bytes along {one.axis!r}, "
                f"in message {one.message}, on the axes {sorted(axes)}"
            )


def _check_tensors(manifest: Manifest, path: Path) -> None:
    """No tensor may claim more bytes than the files hold: it would be allocated before they are read."""
    sizes = {entry.name: entry.num_bytes for entry in manifest.files}
    room = sum(sizes[name] for name in manifest.weights)
    for one in (*manifest.tensors, *manifest.inputs, *manifest.outputs):
        if odd := ({*one.layouts} | {*one.elsewhere}) - {*manifest.mesh}:
            raise PackageError(f"{path} contradicts itself: {one.name!r} is cut along {sorted(odd)}, not an axis")
    known = {entry.name: entry for entry in manifest.tensors}
    if len(known) != len(manifest.tensors):
        raise PackageError(f"{path} contradicts itself: it names a tensor twice")
    for entry in manifest.tensors:
        if not is_dtype(entry.dtype) or min(entry.shape, default=0) < 0:
            raise PackageError(f"{path} is damaged: {entry.name!r} has dtype {entry.dtype!r} and shape {entry.shape}")
        dtype = getattr(torch, entry.dtype)
        if entry.alias_of:
            _check_alias(entry, known.get(entry.alias_of), path)
        if entry.zeros and (entry.in_state or entry.kind != "buffer"):
            raise PackageError(f"{path} contradicts itself: {entry.name!r} is not stored, but not made anew either")
        if not entry.zeros and math.prod(entry.shape) * dtype.itemsize > room:
            raise PackageError(
                f"{path}: {entry.name!r} of shape {entry.shape} is larger than all weight files together"
            )


def _check_alias(entry: TensorEntry, stored: TensorEntry | None, path: Path) -> None:
    """A tied tensor is another one in all but its name, and that one is stored."""
    if stored is None:
        raise PackageError(f"{path} contradicts itself: {entry.name!r} is {entry.alias_of!r}, which it lacks")
    if stored.alias_of or (stored.shape, stored.dtype) != (entry.shape, entry.dtype):
        raise PackageError(f"{path} contradicts itself: {entry.name!r} is {stored.name!r}, which is another tensor")
