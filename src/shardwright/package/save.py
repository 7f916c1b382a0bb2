"""Write a package: into a temporary folder beside the target, then renamed, so it is whole or absent."""

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from shardwright.api import output_names
from shardwright.errors import PackageError
from shardwright.package.manifest import (
    FORMAT_VERSION,
    CollectiveEntry,
    FileEntry,
    Manifest,
    TensorEntry,
    ValueEntry,
    file_sha256,
    write_manifest,
)
from shardwright.plan.files import spell
from shardwright.program import Program, Weight, without_weights, write
from shardwright.sharded import ShardedProgram
from shardwright.version import VERSION

Progress = Callable[[str, float], None]
"""Called with what is being written and the fraction done."""


def save(sharded: ShardedProgram, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write ``sharded`` as the package folder ``path``, which must not exist.

    One rank's weights are in memory at a time. Ranks with equal graphs share one file. Raises `PackageError` when the
    folder exists or cannot be written (a full disk); nothing is left behind then.
    """
    target = Path(path)
    with new_folder(target) as folder:
        report = progress or (lambda what, done: None)
        num_ranks = sharded.mesh.num_ranks
        graphs, weights, digests = [], [], {}
        aliases = _aliases(sharded.program)
        for rank in range(num_ranks):
            report(f"rank {rank}: graph", (rank + 0.1) / num_ranks)
            local = sharded.rank_program(rank)
            data, digest = _graph_bytes(local)
            if digest not in digests:
                digests[digest] = f"graph-{len(digests)}.pt2"
                (folder / digests[digest]).write_bytes(data)
            graphs.append(digests[digest])
            report(f"rank {rank}: weights", (rank + 0.5) / num_ranks)
            weights.append(f"weights-{rank:05d}-of-{num_ranks:05d}.safetensors")
            if any(weight.tensor.is_meta for weight in local.weights.values()):
                raise PackageError(
                    "the program's weights are on the meta device, so there is nothing to write\n"
                    "  try: export the model with real weights"
                )
            tensors = {
                name: weight.materialize().detach().contiguous().cpu()
                for name, weight in local.weights.items()
                if name not in aliases
            }
            save_file(tensors, folder / weights[-1])
        names = sorted({*graphs, *weights})
        files = [FileEntry(n, (folder / n).stat().st_size, file_sha256(folder / n)) for n in names]
        write_manifest(folder, _manifest(sharded, graphs, weights, files, aliases))
        report("done", 1.0)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` when the block ends well, and disappears when it does not."""
    if target.exists():
        raise PackageError(f"the output folder {target} exists already\n  try: another name, or remove it first")
    if not target.parent.is_dir():
        raise PackageError(f"cannot write {target}: the folder {target.parent} does not exist")
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield folder
        for file in folder.iterdir():
            _flush(file)
        folder.chmod(0o755)
        folder.rename(target)
    except (OSError, SafetensorError) as error:
        # safetensors reports a failed write as an error of its own.
        raise PackageError(f"cannot write the package {target}: {error}\n  nothing was left behind") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _aliases(program: Program) -> dict[str, str]:
    """Tied weights: name → the name under which the same tensor is written."""
    first: dict[int, str] = {}
    found = {}
    for name, weight in program.weights.items():
        leader = first.setdefault(id(weight.tensor), name)
        if leader != name:
            found[name] = leader
    return found


def _graph_bytes(local: Program) -> tuple[bytes, str]:
    """A rank's graph without weights, and a digest of what it computes."""
    exported = without_weights(write(replace(local, weights=_on_meta(local))))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    with zipfile.ZipFile(io.BytesIO(buffer.getvalue())) as archive:
        parts = [archive.read(n) for n in sorted(archive.namelist()) if n.endswith(".json")]
    return buffer.getvalue(), hashlib.sha256(b"\0".join(parts)).hexdigest()


def _on_meta(local: Program) -> dict[str, Any]:
    made = {}
    for name, weight in local.weights.items():
        tensor = weight.tensor.detach().to("meta")
        if isinstance(weight.tensor, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=weight.tensor.requires_grad)
        made[name] = Weight(tensor, weight.cuts)
    return made


def _manifest(
    sharded: ShardedProgram, graphs: list[str], weights: list[str], files: list[FileEntry], aliases: dict[str, str]
) -> Manifest:
    program = sharded.program
    nodes = {node.name: node for node in program.placeholders()}
    values = program.output_values()
    outputs = [_value(name, values[position]) for name, position in output_names(program).items()]
    return Manifest(
        format_version=FORMAT_VERSION,
        shardwright_version=VERSION,
        torch_version=str(torch.__version__),
        mesh=dict(sharded.mesh.axes),
        graphs=graphs,
        weights=weights,
        files=files,
        tensors=[
            TensorEntry(
                name=w.name,
                kind=w.kind,
                shape=list(w.shape),
                dtype=str(w.dtype).removeprefix("torch."),
                layouts={axis: spell(layout) for axis, layout in w.layouts.items()},
                alias_of=aliases.get(w.name, ""),
            )
            for w in sharded.weights
        ],
        inputs=[_value(item.name, nodes[item.name]) for item in program.user_inputs()],
        outputs=outputs,
        collectives=[
            CollectiveEntry(c.kind, c.axis, c.num_bytes, c.module, c.source, c.cause) for c in sharded.collectives
        ],
        plan=_plan(sharded.plan),
        source_fingerprint=_fingerprint(program),
    )


def _value(name: str, node: Any) -> ValueEntry:
    val = node.meta.get("val") if isinstance(node, torch.fx.Node) else node
    if not isinstance(val, torch.Tensor):
        return ValueEntry(name, [], type(val).__name__)
    shape = [size if isinstance(size, int) else str(size) for size in val.shape]
    return ValueEntry(name, shape, str(val.dtype).removeprefix("torch."))


def _plan(plan: Any) -> Any:
    if isinstance(plan, dict):
        return {str(key): _plan(value) for key, value in plan.items()}
    spelled = spell(plan)
    return spelled if isinstance(spelled, (str, dict, type(None))) else repr(spelled)


def _fingerprint(program: Program) -> str:
    """A digest of the graph and of every tensor's name, shape and dtype: which program this was."""
    digest = hashlib.sha256(str(program.graph).encode())
    for name, weight in sorted(program.weights.items()):
        digest.update(f"{name} {tuple(weight.tensor.shape)} {weight.tensor.dtype}".encode())
    return digest.hexdigest()
