"""A program of a package, read once its file is found to be the one that was written."""

from pathlib import Path

from torch.export import ExportedProgram

from shardwright.package.graphs import read_graph
from shardwright.package.manifest import Manifest, check_package_file


def checked_graph(folder: Path, manifest: Manifest, name: str, *, contents: bool = True) -> ExportedProgram:
    """The program in the file ``name`` of a package: the original, or that of some ranks; without its weights.

    ``contents``: hold its bytes against the manifest's checksum. Raises `PackageError` where the file is missing, is
    not what the manifest says, or cannot be read.
    """
    entry = next(one for one in manifest.files if one.name == name)
    return read_graph(check_package_file(folder, entry, contents=contents))
