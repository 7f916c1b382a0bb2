"""`compile_axes`: one mesh axis after the other, each on the program that the axes before it leave the first rank.

An axis is assigned on the first rank's program, at once. Every other rank takes the same choices for its own program
(`assign.rebase`), which is partitioned when it is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from shardwright.assign.assign import assign_layouts
from shardwright.assign.assignment import Assignment
from shardwright.assign.effort import Budget
from shardwright.assign.rebase import RanksDifferError, cuts_what_is_left_out, distinct_ranks, rebase
from shardwright.compiler.request import AxisRequest, Request
from shardwright.errors import AssignmentError
from shardwright.layout.mesh import Mesh
from shardwright.partition.group_queries import group_queries
from shardwright.partition.lower import check_lowering
from shardwright.partition.merge import merge_collectives
from shardwright.partition.partition import collectives_of, partition
from shardwright.partition.share_masks import share_masks
from shardwright.plan.pins import Pins
from shardwright.program.collectives import Collective
from shardwright.program.program import Program

Coordinates = tuple[int, ...]
"""Where a rank is on the first mesh axes: a number on each."""


@dataclass(frozen=True, slots=True)
class CompiledAxis:
    """One mesh axis: what was asked for, the pins on the first rank's program, and what was chosen for it."""

    request: AxisRequest
    pins: Pins
    assignment: Assignment

    @property
    def axis(self) -> str:
        """The axis's name."""
        return self.request.axis

    @property
    def is_auto(self) -> bool:
        """Whether the solver was free, within a bound on weight bytes."""
        return self.request.plan is None

    @property
    def exact(self) -> frozenset[str]:
        """Placeholders whose layout the plan gives as it stands."""
        return frozenset(name for name, pin in self.request.named.items() if pin.exact)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program with the axes that are compiled so far; programs and assignments of ranks follow, and are kept.

    ``program``: the original. What is kept for fewer axes holds for more of them, so that extensions share it.
    """

    program: Program
    mesh: Mesh
    axes: tuple[CompiledAxis, ...] = ()
    _after: dict[Coordinates, Program] = field(default_factory=dict, repr=False)
    _rebased: dict[Coordinates, Assignment] = field(default_factory=dict, repr=False)
    _finished: dict[Coordinates, Program] = field(default_factory=dict, repr=False)

    def program_after(self, where: Coordinates) -> Program:
        """The program of the ranks at ``where`` after so many axes; kept where a later axis reads it again."""
        if not where:
            return self.program
        if where in self._after:
            return self._after[where]
        one, assignment = self.axes[len(where) - 1], self.assignment(len(where) - 1, where[:-1])
        after = partition(assignment.program, assignment, one.axis, where[-1], one.request.plan_keys)
        if len(where) < len(self.mesh.names):
            self._after[where] = after
        return after

    def assignment(self, depth: int, where: Coordinates) -> Assignment:
        """The assignment on axis number ``depth`` for the ranks at ``where`` on the axes before it.

        All share the first one's choices, so their collectives agree. Raises `AssignmentError` where they cannot.
        """
        chosen = self.axes[depth].assignment
        if not any(where):
            return chosen
        if where not in self._rebased:
            self._rebased[where] = self.follow(chosen, where)
        return self._rebased[where]

    def follow(self, chosen: Assignment, where: Coordinates) -> Assignment:
        """The first rank's choices on the next axis for the ranks at ``where``; raises as `assignment` does."""
        found = rebase(chosen, self.program_after(where))
        if found is not None:
            return found
        before = list(zip(self.axes, self.mesh, strict=False))[: len(where)]
        uneven = [one.axis for one, (_, size) in before if len(distinct_ranks(one.assignment, size)) > 1]
        names = " and ".join(map(repr, uneven or [one.axis for one, _ in before]))
        raise AssignmentError(
            f"axis {names} is cut unevenly and axis {self.mesh.names[len(where)]!r} follows it, so the ranks would not "
            "agree on collectives\n"
            f"  try: put {names} last in the mesh, or pin sizes that divide"
        )

    def finished(self, where: Coordinates, *, keep: bool = False) -> Program:
        """The program of a rank after all axes, collectives along the parts of a split axis merged, its attention over
        what is held once; not lowered.

        The first rank's is kept, and others where ``keep`` says so.
        """
        if where in self._finished:
            return self._finished[where]
        program = self.program_after(where)
        coordinate = dict(zip(self.mesh.names, where, strict=True))
        for axis, parts in self.mesh.unions:
            rank = coordinate[parts[0]] * self.mesh.size(parts[1]) + coordinate[parts[1]]
            program = merge_collectives(program, axis, parts, rank)
        program = group_queries(share_masks(program))
        if keep or not any(where):
            self._finished[where] = program
        return program

    def collectives(self) -> list[Collective]:
        """Every collective of the program, in order, with its cause."""
        return collectives_of(self.finished((0,) * len(self.axes)))

    def gap(self) -> float:
        """How far from the optimum an assignment may be, as a share of its cost: 0 unless a search ended early."""
        return max((one.assignment.solution.gap for one in self.axes), default=0.0)


def compile_axes(program: Program, mesh: Mesh, request: Request) -> Compiled:
    """Every axis of the mesh, in order. Raises `PlanError` for what does not fit the sizes that an axis sees, and
    `AssignmentError` where nothing satisfies the plan.
    """
    compiled = Compiled(program, mesh)
    for asked in request.on(mesh):
        compiled = replace(compiled, axes=(*compiled.axes, _compile_axis(compiled, asked, request)))
    return compiled


def check_ranks(compiled: Compiled) -> None:
    """Raise what any rank's program would raise, so that no rank fails later; those of one kind are alike.

    Ranks are of one kind where all their pieces have the same lengths. One program of each kind is kept.
    """
    groups = {axis: axis for axis in compiled.mesh.group_names}
    for where in kinds(compiled):
        check_lowering(compiled.finished(where, keep=True), groups)


def kinds(compiled: Compiled) -> list[Coordinates]:
    """The first rank of each kind, the first rank of all before the others."""
    places: list[Coordinates] = [()]
    for depth, (_, num_ranks) in enumerate(compiled.mesh):
        places = [
            (*where, rank) for where in places for rank in distinct_ranks(compiled.assignment(depth, where), num_ranks)
        ]
    return places


def _compile_axis(before: Compiled, asked: AxisRequest, request: Request) -> CompiledAxis:
    """The next axis, assigned such that all ranks can hold its layouts.

    A slice that an earlier axis wrote starts elsewhere on every rank. Where the first rank's cut of one does not fit
    the others, it stays uncut.
    """
    program = before.program_after((0,) * len(before.axes))
    pins, uncut = asked.pins(program), frozenset[str]()
    while True:
        found = _assign(program, pins, asked, request, uncut)
        at_odds = frozenset(_at_odds(before, found))
        if not at_odds:
            return CompiledAxis(asked, pins, found)
        uncut |= at_odds


def _assign(program: Program, pins: Pins, asked: AxisRequest, request: Request, uncut: frozenset[str]) -> Assignment:
    search = asked.search
    return assign_layouts(
        program,
        pins,
        asked.num_ranks,
        auto=asked.plan is None,
        cost=search.cost,
        slack=search.slack,
        budget=Budget.of(search.effort, request.clock),
        uncut=uncut,
    )


def _at_odds(before: Compiled, found: Assignment) -> Iterator[str]:
    """The nodes that the first rank's assignment cuts and some other rank cannot cut alike."""
    if not any(cuts_what_is_left_out(s, r) for s, r in zip(found.strategies, found.rules, strict=True)):
        return
    sizes = [size for _, size in before.mesh][: len(before.axes)]
    for where in list(product(*map(range, sizes)))[1:]:
        try:
            before.follow(found, where)
        except RanksDifferError as error:
            yield from error.names
