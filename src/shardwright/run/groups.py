"""Process groups by mesh axis, and the group names inside an exported program."""

import atexit
import importlib
import sys
import weakref
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.export import ExportedProgram

from shardwright.errors import ShardwrightError
from shardwright.layout.mesh import Mesh
from shardwright.layout.values import check_names
from shardwright.program.collectives import lowered_name
from shardwright.program.nodes import graphs_of
from shardwright.program.torch_private import name_group
from shardwright.run.transport import (
    BACKEND,
    Agreement,
    agree,
    chosen_transport,
    common_wish,
    goes_through,
    is_fake,
    new_group,
    patience_of,
    world_forum,
)

TIMEOUT_S = 600.0
"""How long a collective waits unless anybody says otherwise."""


def start_process_group(timeout_s: float = TIMEOUT_S) -> None:
    """Join the process group that the environment describes, if none is up; collectives wait ``timeout_s`` at most.

    Without GPUs, it communicates as the environment asks (see `transport`). A group that was joined here is left when
    the program ends, unless that is done before.
    """
    if not dist.is_initialized():
        # Imported later, as `torch.export.load` does, this module of torch keeps the group for good: it is the default
        # of its functions' arguments, and `destroy_process_group` would leave gloo's threads running.
        importlib.import_module("torch.distributed.nn.functional")
        on_cpu = "gloo" if chosen_transport() == "gloo" else BACKEND
        backend = "nccl" if torch.cuda.is_available() else on_cpu
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        joined = dist.group.WORLD
        assert joined is not None, "a process group is up"
        # A reference would keep the group's threads and connections when a program destroys it early.
        atexit.register(_leave, weakref.ref(joined))


def _leave(joined: "weakref.ref[dist.ProcessGroup]") -> None:
    """End a group's threads while the interpreter still runs.

    A thread of gloo that drops a tensor later asks an interpreter that is shutting down for its lock, and aborts.
    """
    # Destroying a group may wait for its collectives; a rank that failed has peers that will not come to them.
    failed = getattr(sys, "last_value", None) is not None
    if not failed and dist.is_initialized() and dist.group.WORLD is joined():
        dist.destroy_process_group()


def current_group_names(mesh: Mesh) -> dict[str, str]:
    """The default process group's name for what spans a mesh of its size; otherwise the axis names."""
    names = {axis: axis for axis in mesh.group_names}
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() == mesh.num_ranks:
        names.update((axis, dist.group.WORLD.group_name) for axis in mesh.group_names if _spans(mesh, axis))  # type: ignore[union-attr]
    return names


def make_groups(mesh: Mesh, **how: Any) -> dict[str, str]:
    """Create (every rank must call it) the process groups of a mesh; this rank's group name by axis.

    ``how``: as `make_group_objects` takes it.
    """
    return {axis: group.group_name for axis, group in make_group_objects(mesh, **how).items()}


def make_group_objects(
    mesh: Mesh, *, transport: str | None = None, timeout_s: float | None = None
) -> dict[str, dist.ProcessGroup]:
    """As `make_groups`, the groups themselves; the default group for what spans the mesh and communicates as wished.

    ``transport``: one of `TRANSPORTS`; absent: groups are of the default group's backend. ``timeout_s``: how long a
    collective waits; absent: as long as the default group's. An axis of one rank has no group: nothing is communicated
    along it.
    """
    if dist.get_world_size() != mesh.num_ranks:
        raise ShardwrightError(
            f"the program is for {mesh.num_ranks} ranks ({dict(mesh.axes)}), but {dist.get_world_size()} are running\n"
            f"  try: torchrun --nproc-per-node {mesh.num_ranks} …"
        )
    world = dist.group.WORLD
    assert world is not None, "a process group is up"
    usual = patience_of(world) or timedelta(seconds=TIMEOUT_S)
    timeout = usual if timeout_s is None else timedelta(seconds=timeout_s)
    axes = {
        axis: [tuple(sorted(ranks)) for ranks in mesh.rank_groups(axis)]
        for axis in mesh.group_names
        if mesh.size(axis) > 1
    }
    agreement, world_does = Agreement(), timeout == usual
    transport = None if is_fake(world) else transport
    if transport is not None:
        forum = world_forum(timeout)
        wish = common_wish(transport, forum)
        world_does = world_does and goes_through(world, wish)
        wanted = [ranks for axis, groups in axes.items() if not (world_does and _spans(mesh, axis)) for ranks in groups]
        agreement = agree(list(dict.fromkeys(wanted)), wish, forum)
    stands_in = timeout == usual and goes_through(world, "gloo")
    found: dict[str, Any] = {}
    for axis, groups in axes.items():
        for ranks in groups:
            shares = ranks in agreement.files
            if _spans(mesh, axis) and (world_does or (stands_in and not shares)):
                found[axis] = world
                continue
            if shares:
                group = new_group(ranks, agreement, timeout)
            else:
                group = dist.new_group(list(ranks), timeout=timeout, backend="gloo" if transport else None)
            if dist.get_rank() in ranks:
                found[axis] = group
    return found


def compiled_group_name(mesh: Mesh, axis: str) -> str:
    """The name under which compiled code knows an axis's group: the same wherever and whenever it is compiled."""
    return "shardwright:" + ",".join(f"{name}={size}" for name, size in mesh) + ":" + ",".join(mesh.parts(axis))


def name_groups(mesh: Mesh, names: Mapping[str, str], **how: Any) -> dict[str, str]:
    """As `make_groups`, for compiled code, which knows the groups by other ``names``: axis → name."""
    found = make_group_objects(mesh, **how)
    for axis, group in found.items():
        if axis in names:
            name_group(names[axis], group)
    return {axis: group.group_name for axis, group in found.items()}


def _spans(mesh: Mesh, axis: str) -> bool:
    return mesh.size(axis) == mesh.num_ranks


def groups_in(exported: ExportedProgram) -> set[str]:
    """The names of the groups that a program's collectives run in."""
    nodes = (node for graph in graphs_of(exported.graph) for node in graph.nodes)
    return {str(node.args[-1]) for node in nodes if lowered_name(node) not in ("", "wait_tensor")}


def rebind(exported: ExportedProgram, group_names: Mapping[str, str]) -> ExportedProgram:
    """Give an exported program's collectives other process groups, in place: old name → new name.

    Raises `ShardwrightError` when a name to replace is not in the program.
    """
    if not isinstance(exported, ExportedProgram):
        raise ShardwrightError(f"rebind changes an ExportedProgram, got {type(exported).__name__}")
    check_names(group_names, "group_names", "{'tp': '0'}")
    found = set()
    graphs = list(graphs_of(exported.graph))
    for node in [node for graph in graphs for node in graph.nodes]:
        if lowered_name(node) in ("", "wait_tensor"):
            continue
        old = node.args[-1]
        found.add(old)
        if old in group_names:
            node.args = (*node.args[:-1], group_names[old])
    missing = set(group_names) - found
    if missing and found:
        raise ShardwrightError(f"no collective uses group {sorted(missing)}; the program's groups are {sorted(found)}")
    for graph in graphs:
        graph.owning_module.recompile()  # type: ignore[union-attr]
    return exported
