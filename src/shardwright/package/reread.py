"""Read a package back before it gets its name: what cannot be opened is not a package."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from shardwright.errors import PackageError
from shardwright.layout.dtypes import DTYPES, stored_shape
from shardwright.package.graphs import read_graph
from shardwright.package.manifest import Manifest, read_manifest
from shardwright.package.stream import TensorSlot


def reread(folder: Path, written: Manifest, files: Mapping[str, Sequence[TensorSlot]]) -> None:
    """Check a folder against what was to be written: the manifest, every graph, the names and shapes in rank files.

    ``files``: the tensors of ranks' files, by name. Raises `PackageError` for what does not open or is something else.
    """
    try:
        if read_manifest(folder) != written:
            raise PackageError("the manifest is another one when it is read")
        for name in sorted({*written.graphs, written.original}):
            read_graph(folder / name)
        for name, slots in files.items():
            _check_header(folder / name, slots)
    except PackageError as error:
        raise PackageError(
            f"this program cannot be kept in a package, since what was written does not open: {error}"
        ) from error


def _check_header(path: Path, slots: Sequence[TensorSlot]) -> None:
    wanted = {slot.name: (stored_shape(slot.shape, slot.dtype), DTYPES.get(slot.dtype)) for slot in slots}
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
            found = {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    except SafetensorError as error:
        raise PackageError(f"{path.name} is not a safetensors file: {error}") from error
    if found != wanted:
        odd = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise PackageError(f"{path.name} holds other tensors than were written: {', '.join(odd[:5])}")
