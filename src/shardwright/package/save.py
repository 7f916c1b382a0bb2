"""Write a package: graphs, every rank's weights, a manifest. Weights are streamed, one tensor's piece at a time."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from shardwright.errors import PackageError
from shardwright.layout.box import Region, region_of
from shardwright.layout.dtypes import check_storable
from shardwright.layout.values import check_path
from shardwright.package.alike import alike
from shardwright.package.describe import aliases, describe, fingerprint, plan_to_yaml, zero_buffers
from shardwright.package.folder import WorkFolder, file_entry, work_folder
from shardwright.package.graphs import graph_bytes
from shardwright.package.manifest import VERSION, DecoderEntry, FileEntry, check_file_names, write_manifest
from shardwright.package.reread import reread
from shardwright.package.stream import TensorSlot, write_tensors
from shardwright.program.program import Program, Weight
from shardwright.program.write import without_weights, write

if TYPE_CHECKING:
    from shardwright.compiler.sharded import ShardedProgram


Progress = Callable[[str, int, int], None]
"""Called with what is being done, the bytes of weights written and the bytes to write (0: not known yet)."""

ORIGINAL_NAME = "original.pt2"


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
    progress: Progress | None = None,
) -> None:
    """Write ``sharded`` as the package folder ``path``, which must not exist.

    ``source``: supplies the weights that are on the meta device, slice by slice; an interrupted run is then taken up
    where it stopped, with the ranks that are finished. ``extras``: further files by name (a tokenizer's).
    ``decoder``: what `shardwright generate` must know. One tensor's piece is in memory at a time. Ranks with equal
    graphs share one file. The folder gets its name once all of it but the weights' values was read back. Raises
    `PackageError` when it exists or cannot be written (a full disk) or read; nothing is left behind then.
    """
    target = check_path(path, "the package", error=PackageError)
    report = progress or (lambda doing, done, total: None)
    check_file_names(extras or {}, target)
    left_out = aliases(sharded.program).keys() | zero_buffers(sharded.program)
    stored = {name: w.tensor for name, w in sharded.program.weights.items() if name not in left_out}
    check_storable({name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()}, PackageError)
    programs = [sharded.rank_program(rank) for rank in range(sharded.mesh.num_ranks)]
    with work_folder(target, _job(sharded, source) if source is not None else "") as folder:
        graphs = _write_graphs(programs, folder.path, report)
        for name, data in (extras or {}).items():
            (folder.path / name).write_bytes(data)
        (folder.path / ORIGINAL_NAME).write_bytes(_bare_bytes(sharded.program))
        weights = _write_weights(sharded, programs, source, folder, report)
        others = sorted({*graphs, *(extras or {}), ORIGINAL_NAME})
        files = [*(file_entry(folder.path / name) for name in others), *weights]
        manifest = describe(
            sharded,
            graphs=graphs,
            weights=[entry.name for entry in weights],
            original=ORIGINAL_NAME,
            files=files,
            extras=sorted(extras or {}),
            decoder=decoder,
        )
        write_manifest(folder.path, manifest)
        reread(folder.path, manifest, [_slots(local, left_out) for local in programs])


def _write_graphs(programs: Sequence[Program], folder: Path, report: Progress) -> list[str]:
    """Every rank's graph file; ranks whose files are equal share one."""
    names: dict[str, str] = {}
    known: list[tuple[Program, str]] = []
    graphs = []
    for rank, local in enumerate(programs):
        report(f"rank {rank}: graph", 0, 0)
        name = next((name for other, name in known if alike(local, other)), "")
        if not name:
            data = _bare_bytes(local)
            digest = hashlib.sha256(data).hexdigest()
            if digest not in names:
                names[digest] = f"graph-{len(names)}.pt2"
                (folder / names[digest]).write_bytes(data)
            name = names[digest]
            known.append((local, name))
        graphs.append(name)
    return graphs


def _write_weights(
    sharded: "ShardedProgram",
    programs: list[Program],
    source: WeightSource | None,
    folder: WorkFolder,
    report: Progress,
) -> list[FileEntry]:
    left_out = aliases(sharded.program).keys() | zero_buffers(sharded.program)
    ranks = [_slots(local, left_out) for local in programs]
    total = sum(slot.num_bytes for slots in ranks for slot in slots)
    _check_space(folder.path, total)
    done, found = 0, []
    for rank, (local, slots) in enumerate(zip(programs, ranks, strict=True)):
        name = f"weights-{rank:05d}-of-{len(programs):05d}.safetensors"
        finished = folder.finished(name)
        if finished is not None:
            done += sum(slot.num_bytes for slot in slots)
            found.append(finished)
            continue
        report(f"rank {rank}", done, total)
        before = done

        def count_bytes(num_bytes: int, rank: int = rank) -> None:
            nonlocal done
            done += num_bytes
            report(f"rank {rank}", done, total)

        def read(name: str, local: Program = local) -> torch.Tensor:
            return _piece(name, local.weights[name], source)

        entry = write_tensors(folder.path / name, slots, read, count_bytes)
        assert done - before == sum(slot.num_bytes for slot in slots), "every byte is counted once"
        folder.note(entry)
        found.append(entry)
    return found


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


def _job(sharded: "ShardedProgram", source: WeightSource) -> str:
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
