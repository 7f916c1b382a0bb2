"""`compile_axes`: one mesh axis after the other, each on the program that the axes before it leave the first rank.

An axis is assigned on the first rank's program. Every other rank takes the same choices for its own program
(`assign.rebase`), which is partitioned when it is asked for. Where the axes before left ranks pieces of other sizes
that these choices do not fit, one rank of each kind is assigned by itself; what it communicates along the axes before
lies as on the ranks it meets there (`assign.agreed`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

from shardwright.assign.agreed import Agreed, keeps, settled_by
from shardwright.assign.assign import assign_layouts
from shardwright.assign.assignment import Assignment
from shardwright.assign.effort import Budget
from shardwright.assign.gathered import GatheredWeight, gathered_weights
from shardwright.assign.kinds import ranks_alike
from shardwright.assign.rebase import RanksDifferError, cuts_what_is_left_out, rebase
from shardwright.compiler.request import AxisRequest, Request
from shardwright.layout.layout import REPLICATE, Layout
from shardwright.layout.mesh import Coordinates, Mesh
from shardwright.partition.group_queries import group_queries
from shardwright.partition.lower import check_lowering
from shardwright.partition.merge import merge_collectives
from shardwright.partition.pair_queries import pair_queries
from shardwright.partition.partition import collectives_of, partition
from shardwright.partition.share_masks import share_masks
from shardwright.plan.pins import Pins
from shardwright.program.collectives import Collective
from shardwright.program.duplicate import duplicate
from shardwright.program.program import Program
from shardwright.rules.rule import Strategy


@dataclass(frozen=True, slots=True)
class CompiledAxis:
    """One mesh axis: what was asked for, and what was chosen.

    ``assignments``: by place on the axes before, one for each kind. ``alike``: for each rank of the axis, the first
    one whose pieces are as long.
    """

    request: AxisRequest
    assignments: Mapping[Coordinates, Assignment]
    alike: tuple[int, ...]

    @property
    def axis(self) -> str:
        """The axis's name."""
        return self.request.axis

    @property
    def is_auto(self) -> bool:
        """Whether the solver was free, within a bound on weight bytes."""
        return self.request.plan is None

    @property
    def assignment(self) -> Assignment:
        """What was chosen for the first rank."""
        return next(iter(self.assignments.values()))

    @property
    def exact(self) -> frozenset[str]:
        """Placeholders whose layout the plan gives as it stands."""
        return frozenset(name for name, pin in self.request.named.items() if pin.exact)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program with the axes that are compiled so far; programs and assignments of ranks follow, and are kept.

    ``program``: the original. What is kept for fewer axes holds for more of them, so that extensions share it. Places
    are of one kind where, on every axis, the ranks there hold pieces of the same lengths.
    """

    program: Program
    mesh: Mesh
    axes: tuple[CompiledAxis, ...] = ()
    _after: dict[Coordinates, Program] = field(default_factory=dict, repr=False)
    _rebased: dict[Coordinates, Assignment] = field(default_factory=dict, repr=False)
    _finished: dict[Coordinates, Program] = field(default_factory=dict, repr=False)

    def kind(self, where: Coordinates) -> Coordinates:
        """The first place of the same kind."""
        return tuple(one.alike[rank] for one, rank in zip(self.axes, where, strict=False))

    def kinds(self) -> list[Coordinates]:
        """The first place of each kind, in order."""
        return list(product(*(dict.fromkeys(one.alike) for one in self.axes)))

    def program_after(self, where: Coordinates) -> Program:
        """The program of the ranks at ``where`` after so many axes; kept where a later axis reads it again."""
        if not where:
            return self.program
        if where in self._after:
            return self._after[where]
        after = self.write_after(where)
        if len(where) < len(self.mesh.names):
            self._after[where] = after
        return after

    def write_after(self, where: Coordinates) -> Program:
        """The same program, written anew."""
        one, assignment = self.axes[len(where) - 1], self.assignment(len(where) - 1, where[:-1])
        return partition(assignment.program, assignment, one.axis, where[-1], one.request.plan_keys)

    def assignment(self, depth: int, where: Coordinates) -> Assignment:
        """The assignment on axis number ``depth`` for the ranks at ``where`` on the axes before it: that of their kind.

        Raises `RanksDifferError` where they cannot follow, which `compile_axes` has made sure that they can.
        """
        chosen = self.axes[depth].assignments[self.kind(where)]
        if where == self.kind(where):
            return chosen
        if where not in self._rebased:
            self._rebased[where] = self.follow(chosen, where)
        return self._rebased[where]

    def follow(self, chosen: Assignment, where: Coordinates) -> Assignment:
        """The choices of a kind on the next axis for the ranks at ``where``; raises as `assignment` does."""
        found = rebase(chosen, self.program_after(where))
        assert found is not None, f"ranks at {where} have other programs than ranks of their kind"
        return found

    def layouts(self, name: str, where: Coordinates) -> list[Layout]:
        """The layout of a placeholder on every axis, for the rank at ``where``."""
        kind = self.kind(where)
        return [self.layouts_by_kind(depth, name)[kind[:depth]] for depth in range(len(self.axes))]

    def layouts_by_kind(self, depth: int, name: str) -> dict[Coordinates, Layout]:
        """The layout of a placeholder on axis number ``depth``, by the kind of ranks on the axes before."""
        held = self.axes[depth].assignments.items()
        return {kind: assignment.layouts.get(name, REPLICATE) for kind, assignment in held}

    def gathered_weights(self) -> list[GatheredWeight]:
        """Weights that are cut, and brought together at every call, by name with their bytes and what reads them."""
        found: list[GatheredWeight] = []
        for one in self.axes:
            for assignment in one.assignments.values():
                # On ranks of another kind most are the same gathers, of pieces of other sizes.
                known = {one.identity for one in found}
                gathered = gathered_weights(assignment, one.axis, one.request.plan_keys)
                found += [one for one in gathered if one.identity not in known]
        return found

    def finished(self, where: Coordinates, *, keep: bool = False) -> Program:
        """The program of a rank after all axes, collectives along the parts of a split axis merged, its attention over
        what is held once; not lowered.

        The first rank's is kept, and others where ``keep`` says so.
        """
        if where in self._finished:
            return self._finished[where]
        program = self.write_finished(where)
        if keep or not any(where):
            self._finished[where] = program
        return program

    def write_finished(self, where: Coordinates) -> Program:
        """The same program as `finished` gives, written anew."""
        program = self.program_after(where)
        coordinate = dict(zip(self.mesh.names, where, strict=True))
        for axis, parts in self.mesh.unions:
            rank = coordinate[parts[0]] * self.mesh.size(parts[1]) + coordinate[parts[1]]
            program = merge_collectives(program, axis, parts, rank)
        return pair_queries(group_queries(share_masks(program)))

    def forget(self, where: Coordinates) -> None:
        """Keep the finished program of a rank no longer."""
        self._finished.pop(where, None)

    def given_up(self, where: Coordinates) -> Program:
        """The same program as `finished` gives, for the caller to change."""
        return duplicate(self.finished(where))

    def collectives(self, where: Coordinates = ()) -> list[Collective]:
        """Every collective of one rank's program (absent: the first's), in order, with its cause."""
        return collectives_of(self.finished(where or (0,) * len(self.axes)))

    def other_collectives(self) -> list[Collective]:
        """What ranks of other kinds communicate beyond what the first rank does."""
        found = self.collectives()
        num_first = len(found)
        for where in self.kinds():
            counted = Counter(one.place for one in found)
            for one in self.collectives(where):
                if counted[one.place] <= 0:
                    found.append(one)
                counted[one.place] -= 1
        return found[num_first:]

    def gap(self) -> float:
        """How far from the optimum an assignment may be, as a share of its cost: 0 unless a search ended early."""
        return max((found.solution.gap for one in self.axes for found in one.assignments.values()), default=0.0)


def compile_axes(program: Program, mesh: Mesh, request: Request) -> Compiled:
    """Every axis of the mesh, in order. Raises `PlanError` for what does not fit the sizes that an axis sees, and
    `AssignmentError` where nothing satisfies the plan.
    """
    compiled = Compiled(program, mesh)
    for asked in request.on(mesh):
        compiled = compile_axis(compiled, asked, request)
    return compiled


def compile_axis(before: Compiled, asked: AxisRequest, request: Request) -> Compiled:
    """One axis more; raises as `compile_axes`."""
    kinds = before.kinds()
    chosen: dict[Coordinates, Assignment] = {}
    for place in kinds:
        chosen[place] = _Choice(before, asked, request, place, chosen, is_shared=len(kinds) > 1).made()
    one = CompiledAxis(asked, chosen, ranks_alike(chosen.values(), asked.num_ranks))
    return replace(before, axes=(*before.axes, one))


def check_ranks(compiled: Compiled) -> None:
    """Raise what any rank's program would raise, so that no rank fails later; those of one kind are alike.

    One program of each kind is kept.
    """
    groups = {axis: axis for axis in compiled.mesh.group_names}
    for place in compiled.kinds():
        check_lowering(compiled.finished(place, keep=True), groups)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is chosen on the next axis for one kind. ``chosen``: for the kinds before it, in order."""

    before: Compiled
    asked: AxisRequest
    request: Request
    place: Coordinates
    chosen: Mapping[Coordinates, Assignment]
    is_shared: bool

    def made(self) -> Assignment:
        """What ranks that this kind communicates with have chosen, where that fits it; else what is best for it."""
        peers = self._peers()
        program = self.before.program_after(self.place)
        held: dict[str, Strategy] = {}
        for axis, peer in peers.items():
            held.update(settled_by(peer, program, axis))
        for peer in reversed(peers.values()):
            found = _rebased(peer, program)
            if found is not None and keeps(found, held) and not any(self._at_odds(found)):
                return found
        agreed = Agreed(held=held, is_shared=self.is_shared)
        return self._assigned(program, agreed, next(reversed(peers.values()), None))

    def _peers(self) -> dict[str, Assignment]:
        """By axis, the choices of the first place along it. Others along it agree with that, and so with each other."""
        return {
            one.axis: self.chosen[(*self.place[:depth], 0, *self.place[depth + 1 :])]
            for depth, one in enumerate(self.before.axes)
            if self.place[depth]
        }

    def _assigned(self, program: Program, agreed: Agreed, peer: Assignment | None) -> Assignment:
        """The best layouts that all ranks of the kind can hold.

        A slice that an earlier axis wrote starts elsewhere on every rank. Where the cut of one does not fit the others,
        it stays uncut.
        """
        pins = self.asked.pins(program, self.place, peer.layouts if peer is not None else {})
        while True:
            found = self._solved(program, pins, agreed)
            at_odds = frozenset(self._at_odds(found))
            if not at_odds:
                return found
            agreed = replace(agreed, uncut=agreed.uncut | at_odds)

    def _solved(self, program: Program, pins: Pins, agreed: Agreed) -> Assignment:
        search = self.asked.search
        return assign_layouts(
            program,
            pins,
            self.asked.num_ranks,
            auto=self.asked.plan is None,
            cost=search.cost,
            slack=search.slack,
            budget=Budget.of(search.effort, self.request.clock),
            agreed=agreed,
        )

    def _at_odds(self, found: Assignment) -> Iterator[str]:
        """The nodes that an assignment of this kind cuts and some other rank of the kind cannot cut alike."""
        if not any(cuts_what_is_left_out(s, r) for s, r in zip(found.strategies, found.rules, strict=True)):
            return
        alike = [
            [rank for rank, first in enumerate(one.alike) if first == own]
            for one, own in zip(self.before.axes, self.place, strict=True)
        ]
        for place in list(product(*alike))[1:]:
            try:
                self.before.follow(found, place)
            except RanksDifferError as error:
                yield from error.names


def _rebased(peer: Assignment, program: Program) -> Assignment | None:
    try:
        return rebase(peer, program)
    except RanksDifferError:
        return None
