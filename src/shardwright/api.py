"""The compiler, top to bottom: read, resolve, assign, partition, lower.

`shard` prepares every mesh axis; a rank's program is partitioned and lowered when it is asked for.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch.export import ExportedProgram

from shardwright.assign.assignment import Assignment, Pins, assign_layouts
from shardwright.assign.cost import CostModel
from shardwright.assign.steps import ModuleBoundary
from shardwright.budget import check_budget
from shardwright.errors import Finding, PlanError, ShardwrightError, near_misses, raise_findings
from shardwright.layout import Layout
from shardwright.mesh import Mesh
from shardwright.plan import ResolvedPlan, TensorInfo, read_plan, resolve_plan
from shardwright.plan.styles import as_layout
from shardwright.program import Program, read
from shardwright.sharded import AxisPass, ShardedProgram

PlanLike = Mapping[str, Any] | str | os.PathLike[str]


def shard(
    exported: ExportedProgram,
    *,
    mesh: Any,
    plan: PlanLike = "auto",
    inputs: Mapping[str, Any] | None = None,
    outputs: Any = None,
    budget: Mapping[str, int] | None = None,
    cost: CostModel | None = None,
    slack: float = 0.1,
    time_limit_s: float = 60.0,
) -> ShardedProgram:
    """Shard an exported program over a mesh. No process group, device or weight data is needed.

    ``mesh``: number of ranks (one axis, ``"tp"``), ``{"dp": 2, "tp": 4}``, or a torch ``DeviceMesh``.
    ``plan``: ``"auto"``, a mapping of name patterns to styles, the path of a YAML file of one, or, for a mesh of
    several axes, a mapping of axis names to any of these (an axis that is not named has an empty plan).
    ``inputs``: layouts by input name; absent: every rank gets the whole input. ``outputs``: one layout for all outputs,
    or a mapping from position or name; absent: every rank returns the whole output. On a mesh of several axes both are
    mappings from axis names. ``budget``: the most collectives of each kind; any kind not named is then forbidden.
    ``slack``: under ``"auto"``, how far weight bytes a rank may exceed the least achievable.

    Raises `PlanError` (everything wrong with the plan), `ProgramError`, `AssignmentError`, `BudgetError`.

    >>> sharded = shard(exported, mesh=4, plan={"layers.*.mlp.up": "colwise", "layers.*.mlp.down": "rowwise"})
    >>> sharded.exported(rank=0)            # an ExportedProgram
    """
    axes = Mesh.of(mesh)
    program = read(exported)
    plans = _per_axis(plan, axes, "plan")
    all_inputs, all_outputs = _per_axis(inputs, axes, "inputs"), _per_axis(outputs, axes, "outputs")
    passes = []
    for axis, num_ranks in axes:
        is_auto = plans.get(axis) == "auto"
        plans[axis] = "auto" if is_auto else _load(plans.get(axis, {}))
        resolved = ResolvedPlan() if is_auto else resolve_axis(program, plans[axis], num_ranks)
        pins = make_pins(program, resolved, all_inputs.get(axis), all_outputs.get(axis))

        def assign(on: Program, pins: Pins = pins, num_ranks: int = num_ranks, is_auto: bool = is_auto) -> Assignment:
            return assign_layouts(on, pins, num_ranks, auto=is_auto, cost=cost, slack=slack, time_limit_s=time_limit_s)

        keys = {item.name: resolved.pins[item.target].key for item in program.inputs if item.target in resolved.pins}
        passes.append(AxisPass(axis, assign, keys))
    sharded = ShardedProgram(program, axes, passes, plan=plans)
    # Everything a user can have asked wrongly is known now rather than at the first rank.
    _ = sharded.assignments
    check_budget(sharded, budget)
    return sharded


def tensor_parallel_transformation(
    exported_program: ExportedProgram,
    rank: int,
    world_size: int,
    device_type: str,
    parallel_strategies: Mapping[str, Any],
) -> ExportedProgram:
    """The program of one rank; a drop-in for PyTorch's experimental function of the same name and meaning.

    Every rank may call it by itself: equal arguments give matching programs. ``device_type`` names the device the mesh
    lives on; no mesh is made and nothing is moved. Raises as `shard` does.
    """
    if not isinstance(device_type, str):
        raise ShardwrightError(f"device_type must be a string such as 'cpu' or 'cuda', got {device_type!r}")
    return shard(exported_program, mesh=world_size, plan=parallel_strategies).exported(rank)


def resolve_axis(program: Program, plan: Mapping[str, Any], num_ranks: int) -> ResolvedPlan:
    """A plan resolved against a program's tensors and modules."""
    tensors = {}
    for item in program.inputs:
        if item.is_state and item.target is not None:
            kind = "parameter" if item.kind.name == "PARAMETER" else "buffer"
            tensors[item.target] = TensorInfo(tuple(program.weights[item.target].tensor.shape), kind)
    return resolve_plan(plan, tensors, program.modules(), num_ranks)


def make_pins(program: Program, resolved: ResolvedPlan, inputs: Any, outputs: Any) -> Pins:
    """Pins by placeholder name and output position, from a resolved plan and the caller's layouts."""
    findings: list[Finding] = []
    pins = Pins(boundaries=[ModuleBoundary(b.module, b.side, b.layout, b.key, b.position) for b in resolved.boundaries])
    free = set()
    for item in program.inputs:
        if item.is_state and item.target in resolved.pins:
            pin = resolved.pins[item.target]
            pins.state[item.name] = pin.layout
            if not pin.exact:
                free.add(item.name)
    pins.free_cut = frozenset(free)
    _pin_ties(program, pins, resolved, findings)
    names = [item.name for item in program.user_inputs()]
    for name, layout in _layouts(inputs, names, findings, "input").items():
        pins.inputs[name] = layout
    out_names = output_names(program)
    for name, layout in _layouts(outputs, list(out_names), findings, "output").items():
        pins.outputs[out_names[name]] = layout
    raise_findings(PlanError, findings, summary="the plan does not fit the program")
    return pins


def _pin_ties(program: Program, pins: Pins, resolved: ResolvedPlan, findings: list[Finding]) -> None:
    """Pin every name of a tied weight as one of its names is pinned; entries that disagree are findings."""
    first: dict[int, Any] = {}
    held = [(item, str(item.target)) for item in program.inputs if item.is_state]
    for item, name in held:
        if item.name in pins.state:
            leader = first.setdefault(id(program.weights[name].tensor), item)
            if pins.state[leader.name] != pins.state[item.name]:
                findings.append(
                    Finding(
                        f"{leader.target!r} and {name!r} are one tied tensor, but plan entries "
                        f"{resolved.pins[leader.target].key!r} and {resolved.pins[name].key!r} disagree: "
                        f"{pins.state[leader.name]} against {pins.state[item.name]}",
                        remedies=("give both the same layout", "name only one of them"),
                    )
                )
    for item, name in held:
        leader = first.get(id(program.weights[name].tensor))
        if leader is not None and item.name not in pins.state:
            pins.state[item.name] = pins.state[leader.name]
            pins.free_cut |= {item.name} & ({item.name} if leader.name in pins.free_cut else set())


def output_names(program: Program) -> dict[str, int]:
    """The name of every user output (its path in the returned structure, or its position) → position in the graph."""
    spec = program.source.call_spec.out_spec
    positions = [i for i, output in enumerate(program.outputs) if output.kind.name == "USER_OUTPUT"]
    if spec is None:
        return {str(i): position for i, position in enumerate(positions)}
    tree = pytree.tree_unflatten(list(range(len(positions))), spec)
    found = {}
    for path, number in pytree.tree_flatten_with_path(tree)[0]:
        name = ".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
        found[name or "0"] = positions[number]
    return found


def _layouts(given: Any, names: Sequence[str], findings: list[Finding], what: str) -> dict[str, Layout]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {name: as_layout(given) for name in names}
    found = {}
    for key, layout in given.items():
        name = names[key] if isinstance(key, int) and 0 <= key < len(names) else key
        if name not in names:
            close = tuple(repr(n) for n in near_misses(str(key), names)) or tuple(map(repr, names[:6]))
            findings.append(Finding(f"the program has no {what} {key!r}", remedies=close))
            continue
        found[str(name)] = as_layout(layout)
    return found


def _per_axis(value: Any, mesh: Mesh, what: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and value and set(value) <= set(mesh.names):
        return dict(value)
    if len(mesh.names) == 1:
        return {} if value is None else {mesh.names[0]: value}
    if value is None:
        return {}
    if what == "plan" and (value == "auto" or "tp" in mesh.names):
        return {"tp" if "tp" in mesh.names else mesh.names[-1]: value}
    raise PlanError(f"{what}= on a mesh of several axes is a mapping from axis names {list(mesh.names)}, got {value!r}")


def _load(plan: Any) -> Mapping[str, Any]:
    if isinstance(plan, Mapping):
        return plan
    if isinstance(plan, (str, os.PathLike)):
        if isinstance(plan, str) and not os.path.exists(plan) and not plan.endswith((".yaml", ".yml")):  # noqa: PTH110
            raise PlanError(
                f"plan {plan!r} is neither 'auto' nor a file\n  try: plan='auto', a mapping, or a YAML path"
            )
        return read_plan(plan)
    raise PlanError(f"a plan is 'auto', a mapping or the path of a YAML file, got {type(plan).__name__}")
