"""Read a package's tensors back, whole or in part, from the files of its ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shardwright.errors import LayoutError, PackageError, PlanError, first_line
from shardwright.layout.box import Holder, Region, read_region, region_of
from shardwright.layout.dtypes import DTYPES, stored_shape
from shardwright.layout.layout import Layout, Partial, Replicate, Shard, resolve
from shardwright.layout.mesh import Mesh
from shardwright.lean.large_pages import in_large_pages
from shardwright.package.manifest import Manifest, TensorEntry, ValueEntry, check_package_file, layout_on
from shardwright.package.slices import copy_slice
from shardwright.plan.plan_files import read_layout


@dataclass(frozen=True, slots=True)
class RankPiece:
    """The piece of a tensor that one rank's file holds."""

    file: Path
    name: str
    region: Region

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the piece into ``out``."""
        try:
            copy_slice(self.file, self.name, box, out)
        except (OSError, SafetensorError) as error:
            raise PackageError(f"cannot read {self.name!r} from {self.file}: {error}") from error


class StoredWeights:
    """The whole tensors of a package, by name; see `package.save.WeightSource`.

    Every rank's file is checked against the manifest once, when this is made.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.entries: Mapping[str, TensorEntry] = {entry.name: entry for entry in manifest.tensors}
        files = {entry.name: entry for entry in manifest.files}
        self._paths = [check_package_file(folder, files[name]) for name in manifest.weights]
        self._headers: dict[Path, dict[str, tuple[tuple[int, ...], str]]] = {}
        self.fingerprint = "".join(files[name].sha256 for name in manifest.weights)

    def read(self, name: str, region: Region | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor, or the piece ``region`` of it, as ``dtype`` (absent: as it is stored)."""
        entry = self.entries[name]
        kept = dtype or getattr(torch, entry.dtype)
        wanted = region or Region.whole(entry.shape)
        if entry.zeros:
            like = torch.empty(wanted.shape, dtype=kept, device="meta")
            return make_zeros({name: like}, torch.device("cpu"))[name]
        return read_region(wanted, self._holders(entry), kept)

    def _holders(self, entry: TensorEntry) -> list[Holder]:
        """One holder for every value: where ranks hold the same, the first of them."""
        mesh = self.manifest.as_mesh()
        found: list[Holder] = []
        for rank, path in enumerate(self._paths):
            where = mesh.coordinate(rank)
            cuts = rank_cuts(entry, where, mesh, self.folder)
            if any(where[axis] and not isinstance(layout, Shard) for axis, layout in cuts):
                continue
            region = region_of(entry.shape, [(layout, where[axis]) for axis, layout in cuts])
            assert region is not None, "the first rank of a sum holds its value"
            piece = RankPiece(path, entry.alias_of or entry.name, region)
            self._check(piece, entry)
            found.append(piece)
        return found

    def _check(self, piece: RankPiece, entry: TensorEntry) -> None:
        """Check the entry of a piece in its file against the manifest."""
        if piece.file not in self._headers:
            try:
                with safe_open(piece.file, framework="pt") as file:
                    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
                    self._headers[piece.file] = {
                        name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()
                    }
            except (OSError, SafetensorError) as error:
                raise PackageError(f"{piece.file} is not a safetensors file: {error}") from error
        dtype = getattr(torch, entry.dtype)
        wanted = (stored_shape(piece.region.shape, dtype), DTYPES.get(dtype))
        stored = self._headers[piece.file].get(piece.name)
        if stored != wanted:
            found = "is not there" if stored is None else f"has shape {stored[0]} and dtype {stored[1]}"
            raise PackageError(f"{piece.file}: {piece.name!r} {found}, the manifest says {wanted[0]} and {wanted[1]}")


def make_zeros(wanted: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors that are not stored, with the shapes and dtypes of ``wanted``.

    Raises `PackageError` when there is no room for one.
    """
    if device.type == "cpu" and (found := in_large_pages(list(wanted.values()))) is not None:
        return dict(zip(wanted, found, strict=True))
    return {name: _make_zeros(name, like, device) for name, like in wanted.items()}


def _make_zeros(name: str, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    try:
        return torch.zeros(like.shape, dtype=like.dtype, device=device)
    except RuntimeError as error:
        # A size that the disk need not hold can be any number.
        raise PackageError(
            f"there is no memory for {name!r}, {like.dtype} of shape {tuple(like.shape)}: {first_line(error)}"
        ) from error


def rank_cuts(
    entry: TensorEntry | ValueEntry,
    where: Mapping[str, int],
    mesh: Mesh,
    folder: Path,
    sizes: Sequence[int] | None = None,
) -> list[tuple[str, Layout]]:
    """The layout of a tensor on every mesh axis, for the rank at a coordinate; ``folder``: the package's.

    ``sizes``: the shape of what is cut; absent: as the manifest says.
    """
    shape: tuple[Any, ...] = tuple(entry.shape if sizes is None else sizes)
    found: list[tuple[str, Layout]] = []
    try:
        for depth, (axis, size) in enumerate(mesh):
            held = layout_on(entry, axis, [where[name] for name in mesh.names[:depth]])
            layout = resolve(read_layout(held, size), shape, size)
            assert isinstance(layout, (Replicate, Partial, Shard)), "resolve gives a layout"
            found.append((axis, layout))
            region = region_of(shape, [(layout, where[axis])])
            shape = region.shape if region is not None else shape
    except (LayoutError, PlanError) as error:
        raise PackageError(f"{folder}: the manifest's layout of {entry.name!r} does not fit it: {error}") from error
    return found
