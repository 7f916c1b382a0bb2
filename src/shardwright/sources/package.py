"""From a package to a package for other ranks."""

import os
from collections.abc import Mapping
from typing import Any

from shardwright.api import shard
from shardwright.assign.hardware import CostLike
from shardwright.compiler.sharded import ShardedProgram
from shardwright.errors import LayoutError, PackageError, PlanError
from shardwright.layout.layout import Layout
from shardwright.layout.mesh import Mesh
from shardwright.layout.values import check_path
from shardwright.lean.options import Lean
from shardwright.package.checked_graph import checked_graph
from shardwright.package.gather import check_described
from shardwright.package.kept_training import kept_training
from shardwright.package.manifest import Manifest, read_file, read_manifest
from shardwright.package.packing import check_packing
from shardwright.package.save import Progress, save
from shardwright.package.stored import StoredWeights
from shardwright.plan.accept import PlanLike
from shardwright.plan.plan_files import as_plan, read_layout
from shardwright.plan.styles import STYLE_NAMES
from shardwright.program.write import replace_weights


def reshard(
    package: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    mesh: Any,
    plan: PlanLike | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Any = None,
    budget: Mapping[str, int] | None = None,
    cost: CostLike | None = None,
    slack: float = 0.1,
    effort: float = 1.0,
    time_limit_s: float | None = None,
    discover: bool = False,
    dump: str | os.PathLike[str] | None = None,
    lean: bool | Lean = True,
    progress: Progress | None = None,
) -> ShardedProgram:
    """Make the package ``output`` for another mesh from a package, without the original model.

    The package keeps the original program without its weights; that is sharded anew, and every new rank's pieces are
    read from the old ranks' files. The result is what sharding the original would give, to the bit. The state of an
    optimiser that was saved with it goes along. ``plan``: absent, the plan the package was made with. ``inputs``:
    absent, the package's: what ranks take in pieces along an axis, they take so along the new mesh's axis of that name.
    ``outputs`` to ``lean``: as `shard` takes them. Raises as `shard` and `save`.
    """
    folder = check_path(package, "the package", error=PackageError)
    check_path(output, "the output", error=PackageError)
    manifest = read_manifest(folder)
    check_packing(manifest, folder)
    if progress is not None:
        progress("checking the package", 0, 0)
    stored, training = StoredWeights(folder, manifest), kept_training(folder, manifest)
    files = {entry.name: entry for entry in manifest.files}
    exported = checked_graph(folder, manifest, manifest.original)
    check_described(exported, manifest, folder)
    # Caches start as zeros, which are made rather than read.
    exported = replace_weights(
        exported,
        lambda name, tensor: stored.read(name) if stored.entries[name].zeros else tensor.detach(),
        ties={entry.name: entry.alias_of for entry in manifest.tensors if entry.alias_of},
    )
    extras = {name: read_file(folder, files[name]) for name in manifest.extras}
    if progress is not None:
        progress("sharding", 0, 0)
    sharded = shard(
        exported,
        mesh=mesh,
        plan=_plan(manifest, Mesh.of(mesh)) if plan is None else plan,
        inputs=_inputs(manifest, Mesh.of(mesh)) if inputs is None else inputs,
        outputs=outputs,
        budget=budget,
        cost=cost,
        slack=slack,
        effort=effort,
        time_limit_s=time_limit_s,
        discover=discover,
        dump=dump,
        lean=lean,
    )
    # The class that knew how the model is called need not exist here.
    sharded.signature = manifest.signature() or sharded.signature
    kept = {"extras": extras, "decoder": manifest.decoder, "training": training}
    save(sharded, output, source=stored, **kept, progress=progress)
    return sharded


def _plan(manifest: Manifest, mesh: Mesh) -> PlanLike:
    """The plan a package was made with, for a mesh with the same axes."""
    try:
        plans = {axis: one if one == "auto" else as_plan(one, axis) for axis, one in manifest.plan.items()}
    except (PlanError, AttributeError) as error:
        raise PackageError(f"the package's own plan cannot be read ({error})\n  try: give one with --plan") from error
    odd = [f"{axis}: {one}" for axis, plan in plans.items() for one in _unspelled(plan)]
    if odd or not set(plans) <= set(mesh.names):
        why = f"it holds style objects ({odd[0]})" if odd else f"it has axes {list(plans)}, not {list(mesh.names)}"
        raise PackageError(f"the package's own plan cannot be used: {why}\n  try: give one with --plan")
    return plans


def _inputs(manifest: Manifest, mesh: Mesh) -> dict[str, dict[str, Layout]] | None:
    """How the package's ranks take inputs in pieces, on the axes that a mesh has; None where all are whole."""
    found: dict[str, dict[str, Layout]] = {}
    try:
        for axis, size in mesh:
            # An axis that was split cuts an input on the same dim on both parts.
            parts = [part for part in manifest.unions.get(axis, [axis]) if part in manifest.mesh]
            for one in manifest.inputs:
                if cut := next((one.layouts[part] for part in parts if part in one.layouts), None):
                    found.setdefault(axis, {})[one.name] = read_layout(cut, size)
    except (LayoutError, PlanError) as error:
        raise PackageError(f"the layouts of the package's inputs cannot be read: {error}") from error
    return found or None


def _unspelled(plan: Any) -> list[str]:
    styles = [] if plan == "auto" else plan.values()
    return [style for style in styles if isinstance(style, str) and style not in STYLE_NAMES]
