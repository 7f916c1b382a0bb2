"""Process groups by mesh axis, and the group names inside an exported program."""

from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.export import ExportedProgram

from shardwright.errors import ShardwrightError
from shardwright.mesh import Mesh


def start_process_group(timeout_s: float) -> None:
    """Join the process group that the environment describes, if none is up; collectives wait ``timeout_s`` at most."""
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))


def current_group_names(mesh: Mesh) -> dict[str, str]:
    """The default process group's name for what spans a mesh of its size; otherwise the axis names."""
    names = {axis: axis for axis in mesh.group_names}
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() == mesh.num_ranks:
        names.update((axis, dist.group.WORLD.group_name) for axis in mesh.group_names if _spans(mesh, axis))  # type: ignore[union-attr]
    return names


def make_groups(mesh: Mesh) -> dict[str, str]:
    """Create (every rank must call it) the process groups of a mesh; this rank's group name by axis."""
    if dist.get_world_size() != mesh.num_ranks:
        raise ShardwrightError(
            f"the program is for {mesh.num_ranks} ranks ({dict(mesh.axes)}), but {dist.get_world_size()} are running\n"
            f"  try: torchrun --nproc-per-node {mesh.num_ranks} …"
        )
    names = {}
    for axis in mesh.group_names:
        if _spans(mesh, axis):
            names[axis] = dist.group.WORLD.group_name  # type: ignore[union-attr]
            continue
        for ranks in mesh.groups(axis):
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                names[axis] = group.group_name  # type: ignore[union-attr]
    return names


def _spans(mesh: Mesh, axis: str) -> bool:
    return mesh.size(axis) == mesh.num_ranks


def rebind(exported: ExportedProgram, group_names: Mapping[str, str]) -> ExportedProgram:
    """Give an exported program's collectives other process groups, in place: old name → new name.

    Raises `ShardwrightError` when a name to replace is not in the program.
    """
    found = set()
    for node in exported.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.name.startswith("_c10d_functional::") or "wait" in schema.name:
            continue
        old = node.args[-1]
        found.add(old)
        if old in group_names:
            node.args = (*node.args[:-1], group_names[old])
    missing = set(group_names) - found
    if missing and found:
        raise ShardwrightError(f"no collective uses group {sorted(missing)}; the program's groups are {sorted(found)}")
    exported.graph_module.recompile()
    return exported
