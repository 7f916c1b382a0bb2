"""Write a package: graphs, every rank's weights, a manifest. Weights are streamed, one tensor's piece at a time."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import torch

from shardwright.errors import PackageError
from shardwright.layout.box import Region, region_of
from shardwright.layout.dtypes import check_storable
from shardwright.layout.values import check_path
from shardwright.package.alike import alike
from shardwright.package.describe import aliases, describe, fingerprint, plan_to_yaml, zero_buffers
from shardwright.package.folder import WorkFolder, file_entry, work_folder
from shardwright.package.give_back import give_back
from shardwright.package.graphs import graph_bytes
from shardwright.package.kept_training import KeptTraining
from shardwright.package.manifest import VERSION, DecoderEntry, FileEntry, check_file_names, write_manifest
from shardwright.package.reread import reread
from shardwright.package.stream import TensorSlot, write_tensors
from shardwright.program.duplicate import duplicate
from shardwright.program.program import Program, Weight
from shardwright.program.write import without_weights, write

if TYPE_CHECKING:
    from shardwright.compiler.sharded import ShardedProgram


Progress = Callable[[str, int, int], None]
"""Called with what is being done, the bytes of weights written and the bytes to write (0: not known yet)."""

ORIGINAL_NAME = "original.pt2"

_LARGE_PIECE_BYTES = 2**24
"""Smaller pieces leave the most that is in memory at a time as it is; looking for what is free takes up to a second."""


class WeightSource(Protocol):
    """Where the weights are that the program itself holds on the meta device."""

    @property
    def fingerprint(self) -> str:
        """A digest that changes when the weights may have changed."""
        ...

    def read(self, name: str, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """The piece ``region`` of a whole tensor, as ``dtype``."""
        ...


def save(
    sharded: "ShardedProgram",
    path: str | os.PathLike[str],
    *,
    source: WeightSource | None = None,
    extras: Mapping[str, bytes] | None = None,
    decoder: DecoderEntry | None = None,
    training: KeptTraining | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``sharded`` as the package folder ``path``, which must not exist.

    ``source``: supplies the weights that are on the meta device, slice by slice; an interrupted run is then taken up
    where it stopped, with the ranks that are finished. ``extras``: further files by name (a tokenizer's).
    ``decoder``: what `shardwright generate` must know. ``training``: the state of an optimiser, which is cut as the
    parameters are. One tensor's piece is in memory at a time. Ranks with equal
    graphs share one file. The folder gets its name once all of it but the weights' values was read back. Raises
    `PackageError` when it exists or cannot be written (a full disk) or read; nothing is left behind then.
    """
    target = check_path(path, "the package", error=PackageError)
    report = progress or (lambda doing, done, total: None)
    check_file_names(extras or {}, target)
    left_out = aliases(sharded.program).keys() | zero_buffers(sharded.program)
    stored = {name: w.tensor for name, w in sharded.program.weights.items() if name not in left_out}
    check_storable({name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()}, PackageError)
    programs = sharded.rank_programs()
    with work_folder(target, _job(sharded, source, training) if source is not None else "") as folder:
        graphs = _write_graphs(programs, folder.path, report)
        for name, data in (extras or {}).items():
            (folder.path / name).write_bytes(data)
        (folder.path / ORIGINAL_NAME).write_bytes(_bare_bytes(sharded.program))
        weights = _weight_files(programs, left_out, source)
        if source is not None and _largest_piece(weights) >= _LARGE_PIECE_BYTES:
            # Exporting, sharding and writing graphs freed as much as such a piece takes.
            give_back()
        moments = [] if training is None else _moment_files(programs, training)
        written = _write_files([*weights, *moments], folder, report)
        others = sorted({*graphs, *(extras or {}), ORIGINAL_NAME})
        files = [*(file_entry(folder.path / name) for name in others), *written]
        manifest = describe(
            sharded,
            graphs=graphs,
            weights=[file.name for file in weights],
            original=ORIGINAL_NAME,
            files=files,
            extras=sorted(extras or {}),
            decoder=decoder,
        )
        if training is not None:
            entry = msgspec.structs.replace(training.entry, files=[file.name for file in moments])
            manifest = msgspec.structs.replace(manifest, training=entry)
        write_manifest(folder.path, manifest)
        reread(folder.path, manifest, {file.name: file.slots for file in (*weights, *moments)})


def _write_graphs(programs: Sequence[Program], folder: Path, report: Progress) -> list[str]:
    """Every rank's graph file; ranks whose files are equal share one."""
    names: dict[str, str] = {}
    known: list[tuple[Program, str]] = []
    graphs = []
    for rank, local in enumerate(programs):
        report(f"rank {rank}: graph", 0, 0)
        name = next((name for other, name in known if alike(local, other)), "")
        if not name:
            data = _bare_bytes(duplicate(local))
            digest = hashlib.sha256(data).hexdigest()
            if digest not in names:
                names[digest] = f"graph-{len(names)}.pt2"
                (folder / names[digest]).write_bytes(data)
            name = names[digest]
            known.append((local, name))
        graphs.append(name)
    return graphs


@dataclass(frozen=True, slots=True)
class _RankFile:
    """A file to write: what is said meanwhile, its tensors, and where each is read."""

    doing: str
    name: str
    slots: list[TensorSlot]
    read: Callable[[str], torch.Tensor]


def _weight_files(programs: Sequence[Program], left_out: set[str], source: WeightSource | None) -> list[_RankFile]:
    def reader(local: Program) -> Callable[[str], torch.Tensor]:
        return lambda name: _piece(name, local.weights[name], source)

    return [
        _RankFile(
            f"rank {rank}", rank_file_name("weights", rank, len(programs)), _slots(local, left_out), reader(local)
        )
        for rank, local in enumerate(programs)
    ]


def _moment_files(programs: Sequence[Program], training: KeptTraining) -> list[_RankFile]:
    owners = {moment.name: moment.parameter for moment in training.entry.moments}

    def reader(local: Program) -> Callable[[str], torch.Tensor]:
        def read(name: str) -> torch.Tensor:
            weight = local.weights[owners[name]]
            return training.moments.read(name, region_of(tuple(weight.tensor.shape), weight.cuts))

        return read

    return [
        _RankFile(
            f"rank {rank}: optimiser",
            rank_file_name("optimizer", rank, len(programs)),
            training.slots(local),
            reader(local),
        )
        for rank, local in enumerate(programs)
    ]


def rank_file_name(stem: str, rank: int, num_ranks: int) -> str:
    """The name of the file that holds a rank's tensors of one sort."""
    return f"{stem}-{rank:05d}-of-{num_ranks:05d}.safetensors"


def _write_files(files: Sequence[_RankFile], folder: WorkFolder, report: Progress) -> list[FileEntry]:
    total = sum(slot.num_bytes for file in files for slot in file.slots)
    _check_space(folder.path, total)
    done, found = 0, []
    for file in files:
        wanted = sum(slot.num_bytes for slot in file.slots)
        finished = folder.finished(file.name)
        if finished is not None:
            done += wanted
            found.append(finished)
            continue
        report(file.doing, done, total)
        before = done

        def count_bytes(num_bytes: int, doing: str = file.doing) -> None:
            nonlocal done
            done += num_bytes
            report(doing, done, total)

        entry = write_tensors(folder.path / file.name, file.slots, file.read, count_bytes)
        assert done - before == wanted, "every byte is counted once"
        folder.note(entry)
        found.append(entry)
    return found


def _largest_piece(files: Sequence[_RankFile]) -> int:
    return max((slot.num_bytes for file in files for slot in file.slots), default=0)


def _slots(local: Program, left_out: set[str]) -> list[TensorSlot]:
    return [
        TensorSlot(name, weight.tensor.dtype, weight.shape)
        for name, weight in local.weights.items()
        if name not in left_out
    ]


def _piece(name: str, weight: Weight, source: WeightSource | None) -> torch.Tensor:
    if not weight.tensor.is_meta:
        return weight.materialize().detach()
    if source is None:
        raise PackageError(
            f"{name!r} and perhaps other weights are on the meta device, so there is nothing to write\n"
            "  try: export the model with real weights, or `shardwright shard` on the checkpoint's folder"
        )
    region = region_of(tuple(weight.tensor.shape), weight.cuts)
    if region is None:
        return torch.zeros(weight.shape, dtype=weight.tensor.dtype)
    return source.read(name, region, weight.tensor.dtype)


def _check_space(folder: Path, num_bytes: int) -> None:
    """Fail before hours of work rather than after: the weights must fit on the disk."""
    kept = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if num_bytes > free + kept:
        raise OSError(f"the weights need {num_bytes} bytes, the disk has {free} free")


def _job(sharded: "ShardedProgram", source: WeightSource, training: KeptTraining | None) -> str:
    """A digest of all that decides what the rank files hold."""
    facts = [
        VERSION,
        str(torch.__version__),
        list(sharded.mesh.axes),
        plan_to_yaml(sharded.plan),
        [
            (w.name, {axis: repr(layout) for axis, layout in w.layouts.items()}, repr(w.elsewhere))
            for w in sharded.weights
        ],
        fingerprint(sharded.program),
        source.fingerprint,
        "" if training is None else training.moments.fingerprint,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _bare_bytes(program: Program) -> bytes:
    return graph_bytes(without_weights(write(replace(program, weights=_on_meta(program)))))


def _on_meta(program: Program) -> dict[str, Any]:
    made: dict[int, torch.Tensor] = {}
    found = {}
    for name, weight in program.weights.items():
        tensor = weight.tensor.detach().to("meta")
        if isinstance(weight.tensor, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=weight.tensor.requires_grad)
        # Tied names stay one tensor, so that they still are when the graph is read back.
        found[name] = Weight(made.setdefault(id(weight.tensor), tensor), weight.cuts)
    return found
