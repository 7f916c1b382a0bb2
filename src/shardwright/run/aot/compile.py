"""Compile a package ahead of time: AOTInductor for every graph, into the folder ``compiled`` of the package.

All in one process, without weights and without process groups; ranks that share a graph share its code.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from shardwright.errors import PackageError, ProgramError, first_line
from shardwright.layout.values import check_path
from shardwright.lean.columns import pays_in_columns
from shardwright.package.checked_graph import checked_graph
from shardwright.package.folder import file_entry, work_folder
from shardwright.package.manifest import read_manifest
from shardwright.program.program import is_joint
from shardwright.program.stateless import Stateless, without_state
from shardwright.program.torch_private import compile_to_archive, stand_in_groups
from shardwright.run.aot.compiled_manifest import (
    COMPILED_FOLDER,
    COMPILED_MANIFEST,
    COMPILED_VERSION,
    CompiledManifest,
    ProgramEntry,
)
from shardwright.run.aot.machine import runner_bytes, this_machine
from shardwright.run.cpp import compiler
from shardwright.run.devices import home_of
from shardwright.run.groups import compiled_group_name, groups_in, rebind

_RUNNER = "runner.so"
_INDUCTOR = {
    # Ranks whose graphs differ (uneven shares) must issue their collectives in one order, or they wait for each other
    # for ever. Inductor keeps the order in which it lowers them, so no pass may move nodes by size or by locality.
    "reorder_for_locality": False,
    "reorder_for_peak_memory": False,
    "reorder_for_compute_comm_overlap": False,
}


def compile_package(
    path: str | os.PathLike[str], *, progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """Compile every rank's program of a package for this machine; the files written.

    `load` with ``backend="aoti"`` runs them. ``progress``: called with what is being done, the steps done and all.
    Raises `PackageError` when the package is damaged or compiled already, there is no C++ compiler, or torch cannot
    compile a graph; nothing is left behind then.
    """
    folder = check_path(path, "the package", error=PackageError)
    report = progress or (lambda doing, done, total: None)
    manifest = read_manifest(folder)
    compiler()
    mesh = manifest.as_mesh()
    groups = {axis: compiled_group_name(mesh, axis) for axis in {c.axis for c in manifest.collectives}}
    graphs = list(dict.fromkeys(manifest.graphs))
    entries = {entry.name: entry for entry in manifest.files}
    aliases = {entry.name: entry.alias_of for entry in manifest.tensors if entry.alias_of}
    target = folder / COMPILED_FOLDER
    if target.exists():
        raise PackageError(f"the package {folder} is compiled already\n  try: remove {target} first")
    with work_folder(target) as work:
        programs, devices = [], set()
        for number, name in enumerate(graphs):
            ranks = [str(rank) for rank, graph in enumerate(manifest.graphs) if graph == name]
            report(f"rank {', '.join(ranks)}", number, len(graphs) + 1)
            exported = checked_graph(folder, manifest, name)
            if is_joint(exported.graph_signature.output_specs):
                raise PackageError(f"the package {folder} is for training, and native code is for inference")
            try:
                used = groups_in(exported)
                own = {axis: name for axis, name in groups.items() if axis in used}
                stateless = without_state(rebind(exported, own), aliases, _in_columns)
            except ProgramError as error:
                raise PackageError(f"{folder / name} cannot be compiled: {error}") from error
            devices.add(home_of(stateless.exported).type)
            _compile(stateless, work.path / name, {groups[axis]: mesh.size(axis) for axis in groups})
            programs.append(
                ProgramEntry(
                    file=name,
                    graph_sha256=entries[name].sha256,
                    state=list(stateless.state),
                    columns=list(stateless.columns),
                    inputs=list(stateless.inputs),
                    outputs=list(stateless.outputs),
                    constants=dict(stateless.constants),
                )
            )
        report("runner", len(graphs), len(graphs) + 1)
        (work.path / _RUNNER).write_bytes(runner_bytes())
        found = CompiledManifest(
            format_version=COMPILED_VERSION,
            mesh=manifest.mesh,
            target=this_machine("cuda" if "cuda" in devices else "cpu"),
            groups=groups,
            runner=_RUNNER,
            ranks=[graphs.index(name) for name in manifest.graphs],
            programs=programs,
            files=[file_entry(work.path / name) for name in (*graphs, _RUNNER)],
        )
        (work.path / COMPILED_MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        report("done", len(graphs) + 1, len(graphs) + 1)
    return [str(target / name) for name in (*graphs, _RUNNER, COMPILED_MANIFEST)]


def _in_columns(node: torch.fx.Node) -> bool:
    return pays_in_columns([node.meta["val"]], [node])


def _compile(stateless: Stateless, path: Path, groups: Mapping[str, int]) -> None:
    # Who passes weights from elsewhere is told how they lie: compiled code does not look.
    passed = [{"name": name, "columns": name in stateless.columns} for name in stateless.state]
    options: dict[str, Any] = {
        **_INDUCTOR,
        "aot_inductor.metadata": {"shardwright_weights": msgspec.json.encode(passed).decode()},
    }
    try:
        with stand_in_groups(groups.items()), warnings.catch_warnings(), torch.no_grad():
            # torch's own remarks on its own code.
            warnings.simplefilter("ignore")
            made = compile_to_archive(stateless.exported, options)
    except Exception as error:
        # torch raises many kinds for what it cannot compile.
        raise PackageError(
            f"torch cannot compile {path.name}: {_reason(error)}\n  try: the backend 'compile' or 'eager'"
        ) from error
    # Written here rather than by torch, whose error does not say that a disk is full.
    path.write_bytes(made)


def _reason(error: Exception) -> str:
    """What went wrong in one line: where torch wrote C++ that does not compile, with what the compiler says of it."""
    said = (line.partition(" error: ")[2].strip() for line in str(error).splitlines())
    return ": ".join([first_line(error), *itertools.islice(filter(None, said), 1)])
