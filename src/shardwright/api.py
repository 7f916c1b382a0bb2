"""The compiler, top to bottom: read, accept, shorten, compile axes, split scarce axes, deepen, check.

`shard` prepares every mesh axis; a rank's program is partitioned and lowered when it is asked for.
"""

import os
from collections.abc import Mapping
from typing import Any

from torch.export import ExportedProgram

from shardwright.assign.hardware import CostLike
from shardwright.compiler.advice import advise
from shardwright.compiler.axes import Compiled, check_ranks, compile_axes
from shardwright.compiler.budget import accept_budget, check_budget
from shardwright.compiler.deepened import deepen_compiled
from shardwright.compiler.dump import Dump
from shardwright.compiler.packed_groups import refuse_split_groups
from shardwright.compiler.request import Request, Search, accept
from shardwright.compiler.room import check_room
from shardwright.compiler.sharded import ShardedProgram
from shardwright.compiler.shorten import shorten
from shardwright.compiler.split import split_scarce_axes
from shardwright.errors import ShardwrightError
from shardwright.layout.mesh import Mesh
from shardwright.layout.values import check_flag
from shardwright.lean.options import Lean
from shardwright.plan.accept import PlanLike
from shardwright.program.legal import IllegalProgramError
from shardwright.program.program import Program
from shardwright.program.read import read
from shardwright.program.serial import one_at_a_time
from shardwright.rules.custom import register_discovered


@one_at_a_time
def shard(
    exported: ExportedProgram,
    *,
    mesh: Any,
    plan: PlanLike = "auto",
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
) -> ShardedProgram:
    """Shard an exported program over a mesh. No process group, device or weight data is needed.

    ``mesh``: number of ranks (one axis, ``"tp"``), ``{"dp": 2, "tp": 4}``, or a torch ``DeviceMesh``.
    ``plan``: ``"auto"``, a mapping of name patterns to styles, the path of a YAML file of one, ``"hf"`` for the plan
    that the transformers classes in the program carry, what `hf_plan` or `autodeploy_plan` return, or, for a mesh of
    several axes, a mapping of axis names to any of these (an axis that is not named has an empty plan).
    ``inputs``: layouts by input name; absent: every rank gets the whole input. ``outputs``: one layout for all outputs,
    or a mapping from position or name; absent: every rank returns the whole output. On a mesh of several axes both are
    mappings from axis names. ``budget``: the most collectives of each kind; any kind not named is then forbidden.
    ``cost``: the device that plans are priced for: the name of one (``"h100"``, ``"l4"``, ``"cpu"``, …: see
    `cost_model`), the path of a file that `calibrate` wrote, or a `CostModel`. Absent: ``"cpu"`` on a ``DeviceMesh`` of
    CPUs; else an H100, wherever the program was exported.
    ``slack``: under ``"auto"``, how far a rank's bytes of the weights that can be cut may exceed the least achievable;
    packed weights count as they are unpacked.
    ``discover``: propose and use rules for operators that have none, found by running them on samples
    (`ShardedProgram.discovered` holds them as text to paste); what is found so is a proposal, so verify the result.
    ``dump``: a folder that every stage is written to as numbered text (see `shardwright.compiler.dump`).
    ``lean``: whether ranks' programs are made lean (collectives early and small ones together, late waits, no calls
    that do nothing), or which of that, and how collectives are written: `Lean`.

    ``effort``: how long the solver may search for a better answer than it has, as a multiple of what is usual. It is
    counted in steps rather than seconds, so that equal arguments give equal programs on every rank, machine and run
    with the same versions. ``time_limit_s``: wall time for all of the solver's work, where one process compiles for all
    ranks; its answer may differ from run to run once the limit strikes (`ShardedProgram.hit_time_limit`).

    Where heads are fewer than an axis has ranks, ``tp`` is compiled as two axes, ``tp.0`` and ``tp.1``, if that is
    cheaper (`ShardedProgram.mesh` shows it): layouts and assignments go by these names, merged collectives by ``tp``.

    Threads may call it at once; they wait for each other. Warns when the search ends before its answer is proven the
    best (`ShardedProgram.gap`), and when the time limit struck. Raises `PlanError` (everything wrong with the plan),
    `ProgramError`, `AssignmentError`, `BudgetError`.

    >>> sharded = shard(exported, mesh=4, plan={"layers.*.mlp.up": "colwise", "layers.*.mlp.down": "rowwise"})
    >>> program = sharded.exported(rank=0)  # an ExportedProgram
    """
    axes, search = Mesh.of(mesh), Search.of(_cost_of(cost, mesh), slack, effort, time_limit_s)
    how = Lean.of(lean)
    accept_budget(budget)
    stages = Dump(dump)
    program = read(exported)
    stages.program(program)
    check_room(program, axes)
    discovered = register_discovered(program) if check_flag(discover, "discover") else []
    request = accept(program, axes, plan, inputs, outputs, search)
    compiled = _compiled_shallow(program, axes, request) or _compiled(program, axes, request)
    stages.compiled(compiled)
    # What is wrong with a request is raised here, not when a rank's program is made.
    check_ranks(compiled)
    hit_time_limit = request.clock.has_struck
    sharded = ShardedProgram(
        compiled, plan=request.plans, cost=search.cost, discovered=discovered, hit_time_limit=hit_time_limit, lean=how
    )
    stages.lean(compiled, sharded.schedule, how)
    advise(sharded, time_limit_s)
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

    Every rank may call it by itself: equal arguments give matching programs, however busy a rank is. ``device_type``
    names the device the mesh lives on, for which collectives are priced; no mesh is made and nothing is moved. Raises
    as `shard` does.
    """
    if not isinstance(device_type, str):
        raise ShardwrightError(f"device_type must be a string such as 'cpu' or 'cuda', got {device_type!r}")
    cost = "cpu" if device_type == "cpu" else None
    return shard(exported_program, mesh=world_size, plan=parallel_strategies, cost=cost).exported(rank)


def _compiled(program: Program, axes: Mesh, request: Request) -> Compiled:
    """The program on every axis."""
    compiled = compile_axes(program, axes, request)
    compiled = split_scarce_axes(compiled, request)
    refuse_split_groups(compiled)
    return compiled


def _compiled_shallow(program: Program, axes: Mesh, request: Request) -> Compiled | None:
    """The same, with one layer for many that are alike; None where layers are few or lie otherwise than each other, and
    where something is wrong, which is then said of every layer.
    """
    shallow = shorten(program, request)
    if shallow is None:
        return None
    try:
        return deepen_compiled(_compiled(shallow.program, axes, request), shallow)
    except IllegalProgramError:
        raise
    except ShardwrightError:
        return None


def _cost_of(cost: CostLike | None, mesh: Any) -> CostLike | None:
    """The cost model that the caller names, or that a ``DeviceMesh`` of CPUs asks for."""
    return "cpu" if cost is None and getattr(mesh, "device_type", None) == "cpu" else cost
