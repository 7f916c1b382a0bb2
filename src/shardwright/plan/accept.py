"""What `shard` takes as a plan, and the plan entries of each mesh axis."""

import os
from collections.abc import Mapping
from typing import Any

from torch.export.graph_signature import InputKind

from shardwright.errors import PlanError
from shardwright.layout.mesh import Mesh
from shardwright.plan.autodeploy import AutoDeployPlan
from shardwright.plan.borrowed import BorrowedPlan, move_inside
from shardwright.plan.huggingface import LIBRARIES, plan_of_classes
from shardwright.plan.made_of import TensorInfo, made_of_others
from shardwright.plan.plan_files import read_plan
from shardwright.program.program import Program
from shardwright.program.quantized_weights import quantized_weights


def tensors_of(program: Program) -> dict[str, TensorInfo]:
    """What a plan may name besides modules: every parameter, buffer and constant, as axes so far have cut it."""
    values_of = quantized_weights(program.graph, {i.name: i.target for i in program.inputs if i.is_state and i.target})
    tensors = {}
    for item in program.inputs:
        if item.is_state and item.target is not None:
            kind = "parameter" if item.kind == InputKind.PARAMETER else "buffer"
            shape = program.weights[item.target].shape
            tensors[item.target] = TensorInfo(shape, kind, values_of.get(item.target, ""))
    return tensors


PlanLike = Mapping[str, Any] | BorrowedPlan | AutoDeployPlan | str | os.PathLike[str]


def plan_entries(program: Program, plan: PlanLike) -> Mapping[str, Any]:
    """A plan as a mapping of this program's names to styles, wherever it comes from."""
    return _entries(plan, program)


def per_axis(value: Any, mesh: Mesh, what: str) -> dict[str, Any]:
    """A value by axis name: a mapping of axis names, or one value for the only axis."""
    if isinstance(value, Mapping) and value and set(value) <= set(mesh.names):
        return dict(value)
    if value is None and what != "plan":
        return {}
    if len(mesh.names) == 1:
        return {mesh.names[0]: value}
    if what == "plan" and (value == "auto" or "tp" in mesh.names):
        return {"tp" if "tp" in mesh.names else mesh.names[-1]: value}
    raise PlanError(f"{what}= on a mesh of several axes is a mapping from axis names {list(mesh.names)}, got {value!r}")


def _entries(plan: Any, program: Program) -> Mapping[str, Any]:
    """The plan's own mapping of this program's names to styles."""
    modules, tensors = program.modules(), tensors_of(program)
    if isinstance(plan, str) and plan in LIBRARIES:
        plan = plan_of_classes(modules, plan)
    if isinstance(plan, BorrowedPlan):
        return plan.fit(modules, tensors, program.idle())
    if isinstance(plan, AutoDeployPlan):
        return plan.fit(modules, [*tensors, *made_of_others(tensors)])
    if isinstance(plan, Mapping):
        return move_inside(plan, modules, tensors)
    if isinstance(plan, (str, os.PathLike)):
        if isinstance(plan, str) and not os.path.exists(plan) and not plan.endswith((".yaml", ".yml")):  # noqa: PTH110
            raise PlanError(
                f"plan {plan!r} is neither 'auto', 'hf', 'diffusers' nor a file\n"
                "  try: plan='auto', plan='hf' or 'diffusers' for a model of theirs, a mapping, or a YAML path"
            )
        return read_plan(plan)
    raise PlanError(
        "a plan is 'auto', 'hf', 'diffusers', a mapping, the path of a YAML file, or what hf_plan returns; "
        f"got {type(plan).__name__}"
    )
