"""What `shardwright.shard` is asked for: accepted as a whole, then read axis by axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shardwright.assign.cost import CostModel
from shardwright.assign.effort import Budget, Clock
from shardwright.assign.hardware import CostLike, cost_model
from shardwright.assign.steps import build_steps
from shardwright.errors import PlanError, ShardwrightError, collecting, raise_findings, raise_together
from shardwright.layout.layout import Layout, Shard
from shardwright.layout.mesh import Coordinates, Mesh
from shardwright.layout.values import check_number
from shardwright.plan.accept import PlanLike, per_axis, plan_entries, tensors_of
from shardwright.plan.pins import Pins, follow, make_pins
from shardwright.plan.resolve import Boundary, Pin, Plan, ResolvedPlan, resolve_names, resolve_plan
from shardwright.program.program import Program

_SUMMARY = "the plan does not fit the program"


@dataclass(frozen=True, slots=True)
class Search:
    """How the solver searches on an axis; see `shardwright.shard` for what each means."""

    cost: CostModel
    slack: float
    effort: float
    time_limit_s: float | None = None

    @staticmethod
    def of(cost: CostLike | None, slack: float, effort: float, time_limit_s: float | None) -> "Search":
        """The options, once they are found to be of use; raises `ShardwrightError` where one is not."""
        check_number(slack, "slack", least=0)
        Budget.of(effort, Clock.of(time_limit_s))
        return Search(cost_model(cost), slack, effort, time_limit_s)


@dataclass(frozen=True, slots=True)
class AxisRequest:
    """The part of a `Request` that is about one axis.

    ``plan``: entries, or None where the solver is free (``"auto"``). ``named``: placeholder → its pin, the layout as
    the plan writes it. ``before``: the axes whose cuts its program has; ``later``: the requests of the axes after it.
    """

    axis: str
    num_ranks: int
    search: Search
    plan: Plan | None
    inputs: Any
    outputs: Any
    named: Mapping[str, Pin] = field(default_factory=dict)
    may_stay_whole: frozenset[str] = frozenset()
    before: tuple[str, ...] = ()
    later: tuple["AxisRequest", ...] = ()

    @property
    def plan_keys(self) -> dict[str, str]:
        """Placeholder → the plan entry that pins it."""
        return {name: pin.key for name, pin in self.named.items()}

    def resolve(self, program: Program, place: Coordinates = ()) -> ResolvedPlan:
        """The plan on the program of the ranks at ``place`` on the axes before (absent: the first ones).

        Raises `PlanError` for what does not fit its sizes.
        """
        if self.plan is None:
            return ResolvedPlan()
        # Where an axis was split, scarce heads have cut these as far as they go. Ranks that got less than the first
        # ones on an axis before may have none for some ranks of this one, as the last ranks of one long axis have.
        short = [str(item.target) for item in program.inputs if any(place) or item.name in self.may_stay_whole]
        summary = f"the plan does not fit {self._left(place)}"
        tensors, modules = tensors_of(program), program.modules()
        return resolve_plan(self.plan, tensors, modules, self.num_ranks, may_be_short=short, summary=summary)

    def pins(self, program: Program, place: Coordinates = (), layouts: Mapping[str, Layout] | None = None) -> Pins:
        """The pins on the program of the ranks at ``place``; raises as `resolve` does.

        ``layouts``: what ranks with pieces of other sizes have for their placeholders.
        """
        pins = make_pins(program, self.resolve(program, place), self.inputs, self.outputs)
        pins = replace(pins, may_stay_whole=self.may_stay_whole, reserved=self._reserved())
        return follow(pins, program, layouts, self.num_ranks, is_auto=self.plan is None) if layouts else pins

    def _reserved(self) -> dict[str, list[tuple[Shard, int]]]:
        """What the plan leaves free here and cuts on a later axis."""
        found: dict[str, list[tuple[Shard, int]]] = {}
        for one in self.later:
            for name, pin in one.named.items():
                if name not in self.named and isinstance(pin.layout, Shard):
                    found.setdefault(name, []).append((pin.layout, one.num_ranks))
        return found

    def _left(self, place: Coordinates) -> str:
        if not self.before:
            return "the program"
        left = f"what the axes {list(self.before)} left of the program"
        where = " and ".join(f"{rank} along {axis!r}" for axis, rank in zip(self.before, place, strict=False))
        return f"{left} on the ranks at {where}" if any(place) else left


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, by axis: plan entries or "auto", pins as the plan writes them, layouts of inputs and outputs.

    ``boundaries``: what the plan pins of modules. ``may_stay_whole``: axis → placeholders that the axis before it has
    cut as far as they go. ``searches``: those that parts of a split axis have of their own.
    """

    plans: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    search: Search
    clock: Clock = field(default_factory=Clock)
    named: Mapping[str, Mapping[str, Pin]] = field(default_factory=dict)
    boundaries: Mapping[str, Sequence[Boundary]] = field(default_factory=dict)
    may_stay_whole: Mapping[str, frozenset[str]] = field(default_factory=dict)
    searches: Mapping[str, Search] = field(default_factory=dict)

    def on(self, mesh: Mesh) -> list[AxisRequest]:
        """What is asked for on each axis of a mesh, in order; the same for both parts of a split axis."""
        unions = {part: union for union, parts in mesh.unions for part in parts}
        found: list[AxisRequest] = []
        for depth, (axis, size) in reversed(list(enumerate(mesh))):
            one = self._on(axis, unions.get(axis, axis), size, mesh.names[:depth])
            found.insert(0, replace(one, later=tuple(found)))
        return found

    def _on(self, axis: str, asked: str, num_ranks: int, before: tuple[str, ...]) -> AxisRequest:
        return AxisRequest(
            axis,
            num_ranks,
            self.searches.get(axis, self.search),
            None if self.plans.get(asked) == "auto" else self.plans.get(asked, {}),
            self.inputs.get(asked),
            self.outputs.get(asked),
            self.named.get(asked, {}),
            self.may_stay_whole.get(axis, frozenset()),
            before,
        )


def accept(program: Program, mesh: Mesh, plan: PlanLike, inputs: Any, outputs: Any, search: Search) -> Request:
    """The request, once everything in it fits the program as far as that is known before an axis is cut.

    Raises one `PlanError` with all findings: of plans and layouts on every axis, and of pinned module boundaries that
    the graph does not have. Sizes are looked at on the first axis; later ones are resolved on what is left of them.
    """
    errors: list[ShardwrightError] = []
    given: dict[str, dict[str, Any]] = {"plan": {}, "inputs": {}, "outputs": {}}
    for what, value in zip(given, (plan, inputs, outputs), strict=True):
        with collecting(errors):
            given[what] = per_axis(value, mesh, what)
    plans: dict[str, Any] = {}
    for axis in mesh.names:
        with collecting(errors):
            asked = given["plan"].get(axis, {})
            plans[axis] = asked if isinstance(asked, str) and asked == "auto" else plan_entries(program, asked)
    request = Request(plans, given["inputs"], given["outputs"], search)
    written = {one.axis: _check_axis(program, one, errors) for one in request.on(mesh)}
    raise_together(PlanError, errors, summary=_SUMMARY)
    named = {
        axis: {item.name: found.pins[item.target] for item in program.inputs if item.target in found.pins}
        for axis, found in written.items()
    }
    boundaries = {axis: found.boundaries for axis, found in written.items()}
    return replace(request, named=named, boundaries=boundaries, clock=Clock.of(search.time_limit_s))


def _check_axis(program: Program, asked: AxisRequest, errors: list[ShardwrightError]) -> ResolvedPlan:
    """The plan of an axis, layouts as it writes them; what does not fit goes to ``errors``."""
    resolved = as_written = ResolvedPlan()
    with collecting(errors):
        resolved = ResolvedPlan() if asked.before else asked.resolve(program)
    with collecting(errors):
        if asked.plan is not None:
            as_written = resolve_names(asked.plan, tensors_of(program), program.modules())
    with collecting(errors):
        make_pins(program, resolved, asked.inputs, asked.outputs)
    if as_written.boundaries:
        with collecting(errors):
            raise_findings(PlanError, build_steps(program, as_written.boundaries)[1], summary=_SUMMARY)
    return as_written
