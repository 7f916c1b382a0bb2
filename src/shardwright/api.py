"""The compiler, top to bottom: read, resolve, assign, partition, lower.

`shard` prepares every mesh axis; a rank's program is partitioned and lowered when it is asked for.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.export import ExportedProgram

from shardwright.assign.assign import assign_layouts
from shardwright.assign.assignment import Assignment
from shardwright.assign.cost import CostModel
from shardwright.assign.effort import Budget, Clock
from shardwright.compiler.budget import accept_budget, check_budget
from shardwright.compiler.room import check_room
from shardwright.compiler.sharded import AxisPass, ShardedProgram
from shardwright.compiler.split import is_cheaper, is_even_on, scarce_weights, splits
from shardwright.errors import (
    GatherWarning,
    ShardwrightError,
    SolverWarning,
)
from shardwright.layout.mesh import Mesh
from shardwright.layout.values import check_number
from shardwright.plan.accept import PlanLike, per_axis, plan_entries, resolve_axis, tensors_of
from shardwright.plan.pins import Pins, make_pins
from shardwright.plan.resolve import Pin, ResolvedPlan, resolve_names
from shardwright.program.program import Program
from shardwright.program.read import read
from shardwright.program.serial import one_at_a_time
from shardwright.rules.custom import register_discovered
from shardwright.rules.discover import Discovery

GAP_WORTH_SAYING = 1e-3
"""A proven gap above this share of the cost is a warning."""

GATHERED_WORTH_SAYING = 0.01
"""Weights gathered at every call are a warning above this share of all weight bytes."""


@one_at_a_time
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
    effort: float = 1.0,
    time_limit_s: float | None = None,
    discover: bool = False,
) -> ShardedProgram:
    """Shard an exported program over a mesh. No process group, device or weight data is needed.

    ``mesh``: number of ranks (one axis, ``"tp"``), ``{"dp": 2, "tp": 4}``, or a torch ``DeviceMesh``.
    ``plan``: ``"auto"``, a mapping of name patterns to styles, the path of a YAML file of one, ``"hf"`` for the plan
    that the transformers classes in the program carry, what `hf_plan` or `autodeploy_plan` return, or, for a mesh of
    several axes, a mapping of axis names to any of these (an axis that is not named has an empty plan).
    ``inputs``: layouts by input name; absent: every rank gets the whole input. ``outputs``: one layout for all outputs,
    or a mapping from position or name; absent: every rank returns the whole output. On a mesh of several axes both are
    mappings from axis names. ``budget``: the most collectives of each kind; any kind not named is then forbidden.
    ``slack``: under ``"auto"``, how far a rank's bytes of the weights that can be cut may exceed the least achievable.
    ``discover``: propose and use rules for operators that have none, found by running them on samples
    (`ShardedProgram.discovered` holds them as text to paste); what is found so is a proposal, so verify the result.

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
    axes = Mesh.of(mesh)
    check_number(slack, "slack", least=0)
    if cost is not None and not isinstance(cost, CostModel):
        raise ShardwrightError(f"cost must be a CostModel, got {cost!r}\n  try: CostModel(latency_us=20)")
    accept_budget(budget)
    program = read(exported)
    check_room(program, axes)
    discovered = register_discovered(program) if discover else []
    plans = per_axis(plan, axes, "plan")
    for axis, _ in axes:
        is_auto = isinstance(plans.get(axis), str) and plans[axis] == "auto"
        plans[axis] = "auto" if is_auto else plan_entries(program, plans.get(axis, {}))
    layouts = per_axis(inputs, axes, "inputs"), per_axis(outputs, axes, "outputs")
    clock = Clock.of(time_limit_s)
    wishes = _Wishes(plans, *layouts, cost or CostModel(), slack, effort, clock)
    sharded = _compile(program, axes, wishes, discovered)
    for axis, _ in axes:
        sharded, wishes = _split_where_heads_are_scarce(sharded, axis, wishes)
    # Everything a user can have asked wrongly is known now rather than at the first rank, or at one of them.
    sharded.check_ranks()
    sharded.hit_time_limit = clock.has_struck
    _warn_of_early_end(sharded, time_limit_s)
    _tell_gathered(sharded)
    check_budget(sharded, budget)
    return sharded


def _warn_of_early_end(sharded: ShardedProgram, time_limit_s: float | None) -> None:
    """Warn where the solver stopped before its answer was proven the best."""
    said = f"its answer may cost up to {sharded.gap:.0%} more than the best one"
    if sharded.hit_time_limit:
        warnings.warn(
            f"the time limit of {time_limit_s:g} s ended the solver: {said}, and another run may find another\n"
            "  try: a longer time_limit_s or none at all, or a plan that pins more tensors",
            SolverWarning,
            stacklevel=4,
        )
    elif sharded.gap > GAP_WORTH_SAYING:
        warnings.warn(
            f"the solver stopped when its effort was spent: {said}\n"
            "  try: effort=4 or more, or a plan that pins more tensors",
            SolverWarning,
            stacklevel=4,
        )


def _tell_gathered(sharded: ShardedProgram) -> None:
    """Warn of weights that are gathered at every call."""
    gathered = sharded.gathered_weights
    tensors = {id(w.tensor): w.tensor for w in sharded.program.weights.values()}.values()
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    moved = sum(one.num_bytes for one in gathered)
    if moved <= GATHERED_WORTH_SAYING * total:
        return
    some = "; ".join(map(str, gathered[:3])) + (f"; and {len(gathered) - 3} more" if len(gathered) > 3 else "")
    warnings.warn(
        f"weights of {moved:,} bytes ({moved / max(total, 1):.0%} of all) are gathered at every call: {some}\n"
        "  try: a plan that leaves them whole or cuts what reads them likewise; `gathered_weights` lists them",
        GatherWarning,
        stacklevel=4,
    )


@dataclass(frozen=True)
class _Wishes:
    """What is asked for, by axis: plan entries or "auto", layouts of inputs and outputs; and the solver's options.

    ``may_stay_whole``: axis → placeholders that the axis before it has cut as far as they go.
    """

    plans: dict[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    cost: CostModel
    slack: float
    effort: float
    clock: Clock
    may_stay_whole: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """The solver's, for one axis."""
        return {"cost": self.cost, "slack": self.slack, "budget": Budget.of(self.effort, self.clock)}


@dataclass(frozen=True)
class _AxisWishes:
    """What is asked for on one axis: `_Wishes` by its name. ``before``: the axes whose cuts its program has."""

    num_ranks: int
    plan: Any
    inputs: Any
    outputs: Any
    may_stay_whole: frozenset[str]
    before: tuple[str, ...]

    def named(self, program: Program) -> Mapping[str, Pin]:
        """Placeholder → its pin as spelled; raises `PlanError` for names that the program does not have."""
        if self.before:
            make_pins(program, ResolvedPlan(), self.inputs, self.outputs)
        if self.plan == "auto":
            return {}
        pins = resolve_names(self.plan, tensors_of(program), program.modules())
        return {item.name: pins[item.target] for item in program.inputs if item.target in pins}

    def pins(self, program: Program) -> Pins:
        """The pins on a program as this axis sees it; raises `PlanError` for what does not fit its sizes."""
        resolved = ResolvedPlan()
        if self.plan != "auto":
            left = f"what the axes {list(self.before)} left of the program" if self.before else "the program"
            summary = f"the plan does not fit {left}"
            # Where an axis was split, scarce heads have cut these as far as they go.
            short = [str(item.target) for item in program.inputs if item.name in self.may_stay_whole]
            resolved = resolve_axis(program, self.plan, self.num_ranks, may_be_short=short, summary=summary)
        pins = make_pins(program, resolved, self.inputs, self.outputs)
        pins.may_stay_whole = self.may_stay_whole
        return pins


def _compile(program: Program, mesh: Mesh, wishes: _Wishes, discovered: Sequence[Discovery]) -> ShardedProgram:
    """One pass an axis; each plan is resolved on the sizes that its axis sees."""
    unions = {part: union for union, parts in mesh.unions for part in parts}
    passes = []
    for depth, (axis, num_ranks) in enumerate(mesh):
        asked = unions.get(axis, axis)
        wish = _AxisWishes(
            num_ranks,
            wishes.plans[asked],
            wishes.inputs.get(asked),
            wishes.outputs.get(asked),
            wishes.may_stay_whole.get(axis, frozenset()),
            mesh.names[:depth],
        )
        named = wish.named(program)
        known = None if depth else wish.pins(program)

        def assign(
            on: Program, uncut: Collection[str], wish: _AxisWishes = wish, known: Pins | None = known
        ) -> Assignment:
            pins = known or wish.pins(on)
            is_auto = wish.plan == "auto"
            return assign_layouts(on, pins, wish.num_ranks, auto=is_auto, uncut=uncut, **wishes.options())

        exact = frozenset(name for name, pin in named.items() if pin.exact)
        passes.append(AxisPass(axis, assign, {name: pin.key for name, pin in named.items()}, exact))
    return ShardedProgram(program, mesh, passes, plan=wishes.plans, discovered=discovered)


def _split_where_heads_are_scarce(
    sharded: ShardedProgram, axis: str, wishes: _Wishes
) -> tuple[ShardedProgram, _Wishes]:
    """The program with ``axis`` compiled in two parts where that is cheaper (see `compiler.split`), and the wishes
    it was compiled with.
    """
    best = sharded, wishes
    slack = wishes.slack
    # Parts of an axis are no smaller problems, so a search that ended early on the whole is not begun again.
    ended_early = sharded.gap > GAP_WORTH_SAYING or wishes.clock.left_s <= 0
    for outer in () if ended_early else splits(sharded, axis):
        mesh = sharded.mesh.split(axis, outer)
        first, second = mesh.parts(axis)
        relaxed = {**wishes.may_stay_whole, second: scarce_weights(sharded, axis)}
        # Each of the two passes may exceed its bound on weight bytes, and takes its share of the effort.
        halved = replace(wishes, slack=slack / 2, effort=wishes.effort / 2, may_stay_whole=relaxed)
        try:
            candidate = _compile(sharded.program, mesh, halved, sharded.discovered)
            better = is_even_on(candidate, first) and is_cheaper(
                candidate, best[0], wishes.cost, slack=slack if wishes.plans[axis] == "auto" else None
            )
            if better:
                candidate.check_ranks()
        except ShardwrightError:
            # What the whole axis can be cut by (a dim that divides, a layout spelled for it) need not suit its parts,
            # and the whole axis is compiled already.
            continue
        best = (candidate, halved) if better else best
    return best


def tensor_parallel_transformation(
    exported_program: ExportedProgram,
    rank: int,
    world_size: int,
    device_type: str,
    parallel_strategies: Mapping[str, Any],
) -> ExportedProgram:
    """The program of one rank; a drop-in for PyTorch's experimental function of the same name and meaning.

    Every rank may call it by itself: equal arguments give matching programs, however busy a rank is. ``device_type``
    names the device the mesh lives on; no mesh is made and nothing is moved. Raises as `shard` does.
    """
    if not isinstance(device_type, str):
        raise ShardwrightError(f"device_type must be a string such as 'cpu' or 'cuda', got {device_type!r}")
    return shard(exported_program, mesh=world_size, plan=parallel_strategies).exported(rank)
