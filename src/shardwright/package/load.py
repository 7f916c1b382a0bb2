"""Open a package: this rank's graph and weights, bound to real process groups.

Nothing in a package is executed or unpickled: graphs are read as JSON within ``.pt2`` archives, weights as safetensors.
"""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.export import ExportedProgram

from shardwright.errors import PackageError
from shardwright.inputs import check_inputs
from shardwright.mesh import Mesh
from shardwright.package.manifest import Manifest, check_file, read_manifest
from shardwright.program import Program, attach_weights, read
from shardwright.runtime.groups import make_groups, rebind


class RankModule(nn.Module):
    """One rank's piece of a sharded model, called as the original is: whole inputs in, whole outputs out."""

    def __init__(self, exported: ExportedProgram, manifest: Manifest, rank: int) -> None:
        super().__init__()
        self.manifest, self.rank = manifest, rank
        self.exported = exported
        self._program: Program = read(exported)
        self.module = exported.module()
        self.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original's outputs. Raises `InputError` when the inputs do not fit."""
        check_inputs(self._program, args, kwargs)
        return self.module(*args, **kwargs)


def load(path: str | os.PathLike[str], *, device: str | torch.device | None = None, check: bool = True) -> RankModule:
    """This rank's piece of a package, under ``torchrun`` or an initialised process group.

    ``device``: where to put it; absent: this rank's GPU where the package was exported for CUDA, else the CPU.
    ``check``: compare the checksums of this rank's files. Only this rank's files are read. Raises `PackageError` for a
    damaged package or a wrong number of ranks.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    mesh = Mesh.of(manifest.mesh)
    rank = _start(manifest)
    place = torch.device(device) if device is not None else torch.device("cpu")
    exported = load_rank(folder, rank, device=place, check=check)
    if manifest.num_ranks > 1:
        used = {c.axis for c in manifest.collectives}
        names = make_groups(mesh)
        rebind(exported, {axis: name for axis, name in names.items() if axis in used})
    return RankModule(exported, manifest, rank)


def load_rank(
    folder: str | os.PathLike[str], rank: int, *, device: torch.device | None = None, check: bool = True
) -> ExportedProgram:
    """The `ExportedProgram` of one rank of a package, its collectives on groups named after the mesh axes."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not 0 <= rank < manifest.num_ranks:
        raise PackageError(f"the package {folder} has ranks 0 to {manifest.num_ranks - 1}, not {rank}")
    entries = {entry.name: entry for entry in manifest.files}
    graph = check_file(folder, entries[manifest.graphs[rank]], contents=check)
    weights = check_file(folder, entries[manifest.weights[rank]], contents=check)
    exported = read_graph(graph)
    tensors = _read_weights(weights, exported, manifest, device or torch.device("cpu"))
    return attach_weights(exported, tensors)


def _start(manifest: Manifest) -> int:
    """This process's rank, joining the process group that torchrun describes if none is up yet."""
    if manifest.num_ranks == 1:
        return 0
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            raise PackageError(
                f"the package is for {manifest.num_ranks} ranks, but no process group is up\n"
                f"  try: torchrun --nproc-per-node {manifest.num_ranks} your_script.py, or `shardwright run`"
            )
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if dist.get_world_size() != manifest.num_ranks:
        raise PackageError(
            f"the package is for {manifest.num_ranks} ranks ({manifest.mesh}), not {dist.get_world_size()}\n"
            f"  try: torchrun --nproc-per-node {manifest.num_ranks} …"
        )
    return dist.get_rank()


def read_graph(path: Path) -> ExportedProgram:
    """A graph file of a package, without its weights; raises `PackageError` when it holds anything to be executed."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.filename.endswith("_config.json"):
                    config = json.loads(archive.read(info))["config"]
                    pickled = [name for name, entry in config.items() if entry.get("use_pickle")]
                    if pickled:
                        raise PackageError(f"{path} holds pickled tensors {pickled}, which are never opened")
                elif info.filename.endswith(".pt") and info.file_size:
                    raise PackageError(f"{path} holds a pickle ({info.filename}), which is never opened")
    except (zipfile.BadZipFile, json.JSONDecodeError, KeyError, AttributeError) as error:
        raise PackageError(f"{path} is no graph of a package: {error}") from error
    return torch.export.load(io.BytesIO(data))


def _read_weights(
    path: Path, exported: ExportedProgram, manifest: Manifest, device: torch.device
) -> dict[str, torch.Tensor]:
    aliases = {entry.name: entry.alias_of for entry in manifest.tensors if entry.alias_of}
    zeros = {entry.name for entry in manifest.tensors if entry.zeros}
    held = {**exported.state_dict, **exported.constants}
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = set(file.keys())
            for name, wanted in held.items():
                if not isinstance(wanted, torch.Tensor):
                    continue
                if name in zeros:
                    tensors[name] = torch.zeros(wanted.shape, dtype=wanted.dtype, device=device)
                    continue
                stored = aliases.get(name, name)
                if stored not in names:
                    raise PackageError(f"{path} lacks the tensor {stored!r}")
                shape = tuple(file.get_slice(stored).get_shape())
                if shape != tuple(wanted.shape):
                    raise PackageError(f"{path}: {stored!r} has shape {shape}, the graph needs {tuple(wanted.shape)}")
                tensors[name] = tensors[stored] if stored in tensors else file.get_tensor(stored)
    except SafetensorError as error:
        raise PackageError(f"{path} is no safetensors file: {error}") from error
    return tensors
