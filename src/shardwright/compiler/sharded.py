"""A sharded program: every rank's `ExportedProgram`, made when asked for, and what it took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch.export import ExportedProgram

from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.expand import expand
from shardwright.assign.gathered import GatheredWeight, gathered_weights
from shardwright.assign.rebase import (
    RanksDifferError,
    cuts_what_is_left_out,
    distinct_ranks,
    rule_of_call,
    same_layouts,
    step_call,
)
from shardwright.assign.steps import build_steps
from shardwright.errors import AssignmentError, ShardwrightError
from shardwright.layout.layout import REPLICATE, Layout
from shardwright.layout.mesh import Mesh
from shardwright.layout.pieces import take_shard
from shardwright.partition.lower import check_lowering, lower
from shardwright.partition.merge import merge_collectives
from shardwright.partition.partition import collectives_of, partition
from shardwright.program.collectives import Collective
from shardwright.program.inference import for_inference
from shardwright.program.inputs import bind_inputs
from shardwright.program.program import Program
from shardwright.program.serial import one_at_a_time
from shardwright.program.signature import Signature, signature_of, unflatten_outputs
from shardwright.program.simulate import Simulation
from shardwright.program.write import write
from shardwright.rules.discover import Discovery


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where a parameter, buffer or constant lives: one layout a mesh axis, and the bytes each rank holds."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layouts: Mapping[str, Layout]
    num_bytes: int
    rank_bytes: tuple[int, ...]
    plan_key: str = ""


@dataclass
class AxisPass:
    """One mesh axis of the compilation: its assignment for a given program, and what the plan pinned there."""

    axis: str
    assign: Any
    """(Program, names of nodes that may not be cut) → Assignment: the solver with this axis's pins."""
    plan_keys: Mapping[str, str] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()
    """Placeholders whose layout the plan gives as it stands."""
    solved: dict[tuple[int, ...], Assignment] = field(default_factory=dict)


class ShardedProgram:
    """The result of `shardwright.shard`. A rank's program is made, and its weights are cut, when it is asked for."""

    def __init__(
        self,
        program: Program,
        mesh: Mesh,
        passes: Sequence[AxisPass],
        *,
        plan: Any = None,
        discovered: Sequence[Discovery] = (),
    ) -> None:
        self.program, self.mesh, self.passes, self.plan = program, mesh, list(passes), plan
        self.discovered = list(discovered)
        """Rules that were found by running operators; each prints as the call that registers it."""
        self.hit_time_limit = False
        """Whether `shard`'s time limit ended the solver, so that another run may give another program."""
        self.signature: Signature = signature_of(program.source)
        """How the original's ``forward`` is called."""
        self._partitioned: dict[tuple[int, ...], Program] = {}
        """The programs that a later axis reads, by the ranks' place on the axes so far."""
        self._kept: dict[tuple[int, ...], Program] = {}
        """The finished programs of one rank of each kind."""
        self._collectives: list[Collective] | None = None

    @one_at_a_time
    def exported(self, rank: int, *, group_names: Mapping[str, str] | None = None) -> ExportedProgram:
        """The `ExportedProgram` of one rank, with its own weights; ranks are numbered as a ``DeviceMesh`` numbers them.

        It is for inference: parameters need no gradient, and its module refuses inputs that require one. That module
        is called by name or by position, as the original is.
        ``group_names``: process-group name by mesh axis; for what is absent, the running default group's where that
        spans the mesh, else the axis name (bind it later with `shardwright.rebind`).
        """
        names = self.group_names() | dict(group_names or {})
        return for_inference(write(self.rank_program(self.mesh.place(rank), group_names=names)), self.signature)

    def group_names(self) -> dict[str, str]:
        """The process-group name of every axis: the real one where a process group is up and fits."""
        from shardwright.run.groups import current_group_names

        return current_group_names(self.mesh)

    @one_at_a_time
    def rank_program(self, rank: int, *, group_names: Mapping[str, str] | None = None) -> Program:
        """The lowered `Program` of the rank at a place of the mesh; group names are the axis names unless given."""
        names = self._axis_names()
        unknown = [axis for axis in group_names or {} if axis not in names]
        if unknown:
            raise ShardwrightError(f"group_names: the mesh has no axis {unknown[0]!r}\n  try: {', '.join(names)}")
        names.update(group_names or {})
        return lower(self._finished(self._coordinate(rank)), names)

    @one_at_a_time
    def check_ranks(self) -> None:
        """Raise what any rank's program would raise: those of ranks with pieces of the same lengths are alike."""
        places: list[tuple[int, ...]] = [()]
        for depth, (_, num_ranks) in enumerate(self.mesh):
            places = [
                (*place, rank) for place in places for rank in distinct_ranks(self._assignment(depth, place), num_ranks)
            ]
        for place in places:
            self._kept[place] = self._finished(place)
            check_lowering(self._kept[place], self._axis_names())

    @property
    def assignment(self) -> Assignment:
        """The assignment on the first axis."""
        return self.assignments[self.mesh.names[0]]

    @property
    @one_at_a_time
    def assignments(self) -> dict[str, Assignment]:
        """The assignment on every axis, as the first rank sees it."""
        found = {}
        for depth, one in enumerate(self.passes):
            found[one.axis] = self._assignment(depth, (0,) * depth)
        return found

    @property
    def gap(self) -> float:
        """How far from the optimum the assignment may be, as a share of its cost: 0 unless the search ended early."""
        return max((a.solution.gap for a in self.assignments.values()), default=0.0)

    @property
    @one_at_a_time
    def collectives(self) -> list[Collective]:
        """Every collective of the program, in order, with its cause."""
        if self._collectives is None:
            first = (0,) * len(self.passes)
            self._kept[first] = self._finished(first)
            self._collectives = collectives_of(self._kept[first])
        return list(self._collectives)

    @property
    def fallbacks(self) -> list[Fallback]:
        """Operators that run whole on every rank for want of a rule."""
        seen: dict[str, Fallback] = {}
        for assignment in self.assignments.values():
            for fallback in assignment.fallbacks:
                seen.setdefault(fallback.node, fallback)
        return list(seen.values())

    @property
    def gathered_weights(self) -> list[GatheredWeight]:
        """Weights that are cut, and brought together at every call, by name with their bytes and what reads them."""
        keys = {one.axis: one.plan_keys for one in self.passes}
        return [found for axis, a in self.assignments.items() for found in gathered_weights(a, axis, keys[axis])]

    @property
    @one_at_a_time
    def weights(self) -> list[WeightLayout]:
        """Where every parameter, buffer and constant lives."""
        found = []
        assignments = self.assignments
        programs = [self._weights_of(self._coordinate(rank)) for rank in range(self.mesh.num_ranks)]
        for item in self.program.inputs:
            if not item.is_state or item.target is None:
                continue
            tensor = self.program.weights[item.target].tensor
            layouts = {axis: a.layouts[item.name] for axis, a in assignments.items() if item.name in a.layouts}
            key = next((p.plan_keys[item.name] for p in self.passes if item.name in p.plan_keys), "")
            found.append(
                WeightLayout(
                    name=item.target,
                    kind=item.kind.name.lower(),
                    shape=tuple(tensor.shape),
                    dtype=tensor.dtype,
                    layouts=layouts,
                    num_bytes=tensor.numel() * tensor.element_size(),
                    rank_bytes=tuple(weights[item.target].num_bytes for weights in programs),
                    plan_key=key,
                )
            )
        return found

    @property
    def rank_bytes(self) -> list[int]:
        """The bytes of weights that every rank holds."""
        weights = self.weights
        return [sum(weight.rank_bytes[rank] for weight in weights) for rank in range(self.mesh.num_ranks)]

    def simulation(self) -> Simulation:
        """All ranks with their weights, in this process; buffers keep their values from call to call."""
        programs = [self.rank_program(rank) for rank in range(self.mesh.num_ranks)]
        return Simulation(programs, {axis: self.mesh.groups(axis) for axis in self.mesh.group_names}, self.signature)

    def simulate(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The outputs of every rank for whole inputs, all ranks run in this process from the initial state."""
        flat = bind_inputs(self.program, args, kwargs, self.signature)
        found = self.simulation().run_flat(self.rank_inputs(flat))
        return [unflatten_outputs(self.program, flat) for flat in found]

    def rank_inputs(self, flat: Sequence[Any]) -> list[list[Any]]:
        """Every rank's inputs for flat whole inputs: the pieces where ``inputs=`` cut them."""
        assignments = list(self.assignments.values())
        found = []
        for rank in range(self.mesh.num_ranks):
            pieces = list(flat)
            for position, item in enumerate(self.program.user_inputs()):
                for assignment, coordinate in zip(assignments, self._coordinate(rank), strict=True):
                    layout = assignment.layouts.get(item.name, REPLICATE)
                    if isinstance(pieces[position], torch.Tensor) and layout != REPLICATE:
                        pieces[position] = take_shard(pieces[position], layout, coordinate)
            found.append(pieces)
        return found

    def save(self, path: str, **options: Any) -> None:
        """Write a package folder: the graphs, and every rank's weights in safetensors. See `package.save`."""
        from shardwright.package.save import save

        save(self, path, **options)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh)
        gathered = f"; {len(self.gathered_weights)} weights gathered at every call" if self.gathered_weights else ""
        return f"ShardedProgram({axes}; {len(self.weights)} tensors, {len(self.collectives)} collectives{gathered})"

    def _axis_names(self) -> dict[str, str]:
        """Groups that are named after their axes."""
        return {axis: axis for axis in self.mesh.group_names}

    def _coordinate(self, rank: int) -> tuple[int, ...]:
        return tuple(self.mesh.coordinate(rank).values())

    def _finished(self, where: tuple[int, ...]) -> Program:
        """The program of a rank after all axes, collectives along parts of one axis merged."""
        if where in self._kept:
            return self._kept[where]
        program = self._partition(where)
        coordinate = dict(zip(self.mesh.names, where, strict=True))
        for axis, parts in self.mesh.unions:
            rank = coordinate[parts[0]] * self.mesh.size(parts[1]) + coordinate[parts[1]]
            program = merge_collectives(program, axis, parts, rank)
        return program

    def _partition(self, where: tuple[int, ...]) -> Program:
        """The program after the axes of ``where``; kept where a later axis reads it again."""
        if not where:
            return self.program
        if where in self._partitioned:
            return self._partitioned[where]
        depth = len(where) - 1
        one = self.passes[depth]
        assignment = self._assignment(depth, where[:-1])
        after = partition(assignment.program, assignment, one.axis, where[-1], one.plan_keys)
        if len(where) < len(self.passes):
            self._partitioned[where] = after
        return after

    def _assignment(self, depth: int, where: tuple[int, ...]) -> Assignment:
        """The assignment on axis number ``depth`` for the ranks at ``where`` on the axes before it.

        Ranks whose programs have equal shapes share the first one's choices, so their collectives agree.
        """
        one = self.passes[depth]
        if where not in one.solved:
            program = self._partition(where)
            first = (0,) * depth
            if where != first:
                leader = self._assignment(depth, first)
                one.solved[where] = self._followed(leader, where)
            else:
                one.solved[where] = self._agreed(depth, program)
        return one.solved[where]

    def _agreed(self, depth: int, program: Program) -> Assignment:
        """The first rank's assignment on axis number ``depth``, such that all ranks can hold its layouts.

        A slice that an earlier axis wrote starts elsewhere on every rank. Where the first rank's cut of one does not
        fit the others, it stays uncut.
        """
        one = self.passes[depth]
        uncut: set[str] = set()
        others = [tuple(place) for place in product(*(range(size) for _, size in list(self.mesh)[:depth]))][1:]
        while True:
            found = one.assign(program, uncut)
            if not any(cuts_what_is_left_out(s, r) for s, r in zip(found.strategies, found.rules, strict=True)):
                return found
            at_odds: set[str] = set()
            for place in others:
                try:
                    self._followed(found, place)
                except RanksDifferError as error:
                    at_odds.update(error.names)
            if not at_odds:
                return found
            uncut |= at_odds

    def _followed(self, leader: Assignment, where: tuple[int, ...]) -> Assignment:
        """The first rank's choices for the ranks at ``where``; they must agree in every shape."""
        found = _rebase(leader, self._partition(where))
        if found is not None:
            return found
        before = list(self.mesh)[: len(where)]
        uneven = [
            axis
            for depth, (axis, num_ranks) in enumerate(before)
            if len(distinct_ranks(self._assignment(depth, (0,) * depth), num_ranks)) > 1
        ]
        names = " and ".join(map(repr, uneven or [axis for axis, _ in before]))
        raise AssignmentError(
            f"axis {names} is cut unevenly and axis {self.mesh.names[len(where)]!r} follows it, so the ranks would not "
            "agree on collectives\n"
            f"  try: put {names} last in the mesh, or pin sizes that divide"
        )

    def _weights_of(self, where: tuple[int, ...]) -> Mapping[str, Any]:
        weights = dict(self.program.weights)
        for depth, coordinate in enumerate(where):
            layouts = self._assignment(depth, (0,) * depth).layouts
            for item in self.program.inputs:
                if item.is_state and item.target is not None:
                    layout = layouts.get(item.name)
                    if layout is not None:
                        weights[item.target] = weights[item.target].cut(layout, coordinate)
        return weights


def _rebase(leader: Assignment, program: Program) -> Assignment | None:
    """The leader's choices for another rank's program; None where that has other shapes."""
    program = expand(program, leader.expanded) if leader.expanded else program
    steps, _ = build_steps(program, leader.boundaries)
    ours = [(s.kind, tuple(str(v.shape) if v is not None else "" for v in s.vals)) for s in steps.items]
    theirs = [(s.kind, tuple(str(v.shape) if v is not None else "" for v in s.vals)) for s in leader.steps.items]
    if ours != theirs:
        return None
    strategies, rules, calls = list(leader.strategies), list(leader.rules), list(leader.calls)
    at_odds = []
    for step in steps.items:
        call = step_call(step) if calls[step.index] is not None else None
        if call is None or call == calls[step.index]:
            continue
        # The pass before left this rank other constants than the leader (where its slice starts), so other factors.
        calls[step.index], rules[step.index] = call, rule_of_call(call)
        chosen = leader.strategies[step.index]
        if chosen is None:
            continue
        strategies[step.index] = same_layouts(rules[step.index], chosen)
        if strategies[step.index] is None:
            at_odds.append(leader.steps.items[step.index].node)
    if at_odds:
        raise RanksDifferError(at_odds)
    return Assignment(
        program=program,
        steps=steps,
        strategies=strategies,
        rules=rules,
        calls=calls,
        layouts=leader.layouts,
        fallbacks=leader.fallbacks,
        solution=leader.solution,
        num_sites=leader.num_sites,
        boundaries=leader.boundaries,
        expanded=leader.expanded,
    )
