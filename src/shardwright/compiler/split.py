"""One mesh axis as two, where heads are fewer than its ranks.

With 2 key-value heads on 8 ranks, the heads are cut on an axis of 2 ranks, and on an axis of 4 the queries of each
head, whose keys and values all 4 hold. Collectives that run along both are merged into one over all 8. Serving stacks
do this by hand, model by model, as key-value head replication (vLLM, TensorRT-LLM).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch.export.graph_signature import OutputKind

from shardwright.assign.assignment import Assignment
from shardwright.assign.cost import CostModel
from shardwright.assign.held import bytes_allowed, held_bytes, room_beside
from shardwright.assign.integer_program import PROVEN
from shardwright.assign.steps import StepKind
from shardwright.compiler.axes import Compiled, CompiledAxis, check_ranks, compile_axis
from shardwright.compiler.request import Request
from shardwright.errors import ShardwrightError
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Shard, cut_of
from shardwright.layout.mesh import Mesh
from shardwright.partition.partition import collective_nodes
from shardwright.partition.routes import moves
from shardwright.program.collectives import CollectiveKind
from shardwright.program.nodes import subgraph_of
from shardwright.program.program import Program

_TIE = 1e-6

_HELD = (OutputKind.BUFFER_MUTATION, OutputKind.GRADIENT_TO_PARAMETER)
"""Outputs that lie as what the program holds."""


def split_scarce_axes(compiled: Compiled, request: Request) -> Compiled:
    """The program with every axis compiled in two parts where heads are scarce on it and that is cheaper."""
    for axis in compiled.mesh.names:
        compiled, request = _split(compiled, axis, request)
    return compiled


def _split(compiled: Compiled, axis: str, request: Request) -> tuple[Compiled, Request]:
    """The cheapest of the ways to compile one axis, and the request that it was compiled for."""
    best = compiled, request
    # Parts of an axis are not smaller problems, so a search that ended early on the whole is not begun again.
    ended_early = compiled.gap() > PROVEN or request.clock.left_s <= 0
    for outer in () if ended_early else _splits(compiled, axis):
        mesh = compiled.mesh.split(axis, outer)
        halved = _for_parts(request, mesh.parts(axis), _axis(compiled, axis), outer)
        try:
            candidate = _compile_parts(compiled.program, mesh, halved, mesh.parts(axis)[0], best[0])
            better = (
                candidate is not None
                and _is_within_bounds(candidate, mesh.parts(axis), _axis(compiled, axis))
                and _is_cheaper(candidate, best[0], request.search.cost, is_auto=_axis(compiled, axis).is_auto)
            )
            if candidate is None or not better:
                continue
            check_ranks(candidate)
        except ShardwrightError:
            # What the whole axis can be cut by (a dim that divides, a layout written for it) need not suit its parts,
            # and the whole axis is compiled already.
            continue
        best = candidate, halved
    return best


def _compile_parts(program: Program, mesh: Mesh, request: Request, first: str, other: Compiled) -> Compiled | None:
    """The program on a mesh with an axis in two parts; None where the ``first`` part cuts unevenly, or communicates and
    computes so much already that the rest cannot make it cheaper than ``other``.
    """
    compiled = Compiled(program, mesh)
    for asked in request.on(mesh):
        compiled = compile_axis(compiled, asked, request)
        if asked.axis == first and not (
            _is_even_on(compiled, first) and _may_be_cheaper(compiled, other, request.search.cost)
        ):
            return None
    return compiled


def _may_be_cheaper(begun: Compiled, other: Compiled, cost: CostModel) -> bool:
    """Whether more axes may still make what is compiled so far cheaper than ``other``: they can share out all that it
    sends and computes, and add to it.
    """
    begun_axis, others = begun.axes[-1], begun.mesh.num_ranks
    for one in begun.axes:
        others //= one.request.num_ranks
    sent = _sent(begun.program_after((0,) * len(begun.axes)), begun.mesh)
    least = _spent_us(((kind, size / others, ranks, members) for kind, size, ranks, members in sent), cost)
    theirs, their_work = _costs_ahead_us(other, cost)
    if begun_axis.is_auto:
        return least + begun_axis.assignment.solution.work_us / others < theirs + their_work
    return least <= theirs * (1 + _TIE)


def _for_parts(request: Request, parts: Sequence[str], whole: CompiledAxis, outer: int) -> Request:
    """The request for an axis in two parts, of which the first has ``outer`` ranks.

    What holds scarce heads may stay whole on the second part. Each part has half of the effort, and its share of the
    slack that such weights leave: the second's comes on top of the first's.
    """
    found, num_ranks, search = whole.assignment, whole.request.num_ranks, whole.request.search
    scarce: frozenset[str] = frozenset().union(*found.scarce.values())
    room = 1.0
    if whole.is_auto:
        ending = [names for heads, names in found.scarce.items() if math.gcd(heads, num_ranks) == outer]
        room = max(room_beside(found, frozenset().union(*ending), 1 / outer, search.slack), 0.0)
    half = replace(search, slack=math.sqrt(1 + search.slack * room) - 1, effort=search.effort / 2)
    return replace(
        request,
        may_stay_whole={**request.may_stay_whole, parts[1]: scarce},
        searches={**request.searches, **dict.fromkeys(parts, half)},
    )


def _axis(compiled: Compiled, name: str) -> CompiledAxis:
    return next(one for one in compiled.axes if one.axis == name)


def _splits(compiled: Compiled, axis: str) -> list[int]:
    """How many ranks the first of two axes could have in place of ``axis``: as many as heads that are scarce allow.

    None where inputs, outputs or what the plan pins as it stands are cut other than in equal chunks: two cuts would not
    give ranks the same pieces. (A buffer that is written in place, a cache of scarce heads say, is nobody's output and
    may be held otherwise, and so may a gradient.)
    """
    one = _axis(compiled, axis)
    num_ranks, assignment = one.request.num_ranks, one.assignment
    inputs = [item.name for item in compiled.program.user_inputs()]
    named = [assignment.layouts.get(name) for name in (*inputs, *sorted(one.exact))]
    returned = [
        strategy.operands[0]
        for step, strategy in zip(assignment.steps.items, assignment.strategies, strict=True)
        if strategy is not None
        and step.kind == StepKind.OUTPUT
        and compiled.program.outputs[step.output].kind not in _HELD
    ]
    if not all(_is_chunked(layout) for layout in (*named, *returned) if isinstance(layout, Shard)):
        return []
    found = {math.gcd(heads, num_ranks) for heads in assignment.scarce}
    return sorted(outer for outer in found if 1 < outer < num_ranks)


def _is_even_on(compiled: Compiled, axis: str) -> bool:
    """Whether all ranks get pieces of equal size along ``axis``, and cut them out of whole values by the same number
    of slices, so that one assignment on the next axis serves all.
    """
    return all(_cuts_evenly(assignment) for assignment in _axis(compiled, axis).assignments.values())


def _cuts_evenly(assignment: Assignment) -> bool:
    for step, strategy in zip(assignment.steps.items, assignment.strategies, strict=True):
        if strategy is None:
            continue
        layouts = (*strategy.operands, *strategy.results)
        if not all(cut_of(layout).is_even for layout in layouts if isinstance(layout, Shard)):
            return False
        for (producer, result), layout in zip(step.reads, strategy.operands, strict=True):
            made = assignment.strategies[producer]
            is_passed = made is None or layout == made.results[result]
            if isinstance(layout, Shard) and not is_passed and not _is_sliced_alike(cut_of(layout)):
                return False
    return True


def _is_sliced_alike(cut: Cut) -> bool:
    """Whether every rank's piece is made of ranges of the same lengths."""
    if not cut.is_concrete:
        return True
    ranges = [[stop - start for start, stop in cut.intervals(rank)] for rank in range(cut.num_ranks)]
    return all(one == ranges[0] for one in ranges)


def _is_chunked(layout: Shard) -> bool:
    cut = cut_of(layout)
    return cut.is_even and cut.is_chunked


def _is_within_bounds(candidate: Compiled, parts: Sequence[str], whole: CompiledAxis) -> bool:
    """Whether, under the automatic plan, a rank holds no more weight bytes on two axes than it may on the one."""
    if not whole.is_auto:
        return True
    found, assignments = whole.assignment, [_axis(candidate, part).assignment for part in parts]
    return held_bytes(found.program, assignments) <= bytes_allowed(found, whole.request.search.slack)


def _is_cheaper(candidate: Compiled, other: Compiled, cost: CostModel, *, is_auto: bool) -> bool:
    """Whether a split pays: less communication; or as much, and fewer weight bytes on the busiest rank.

    Under the automatic plan: less time.
    """
    (ours, our_work), (theirs, their_work) = costs_us(candidate, cost), _costs_ahead_us(other, cost)
    if is_auto:
        return ours + our_work < theirs + their_work
    if abs(ours - theirs) > _TIE * max(ours, theirs, 1.0):
        return ours < theirs
    return _held_bytes(candidate) < _held_bytes(other)


def _held_bytes(compiled: Compiled) -> float:
    return held_bytes(compiled.program, [one.assignment for one in compiled.axes])


def _costs_ahead_us(compiled: Compiled, cost: CostModel) -> tuple[float, float]:
    """As `costs_us`, without writing the program after the last axis, where its assignment says what it will hold."""
    axis, mesh = compiled.axes[-1], compiled.mesh
    before = compiled.program_after((0,) * (len(compiled.axes) - 1))
    if mesh.unions or any(subgraph_of(node) is not None for node in before.graph.nodes):
        # What is merged, and what stands in subgraphs, is known once it is written.
        return costs_us(compiled, cost)
    held = _sent(before, mesh)
    ahead = ((one.kind, one.num_bytes, mesh.size(axis.axis), one.members) for one in moves(axis.assignment))
    return _spent_us((*held, *ahead), cost), axis.assignment.solution.work_us


def costs_us(compiled: Compiled, cost: CostModel) -> tuple[float, float]:
    """The time of the collectives and of the busiest rank's work, by the cost model, in microseconds."""
    sent = _sent(compiled.finished((0,) * len(compiled.axes)), compiled.mesh)
    return _spent_us(sent, cost), compiled.axes[-1].assignment.solution.work_us


def _sent(program: Program, mesh: Mesh) -> Iterator[tuple[CollectiveKind, int, int, int]]:
    """The collectives of a rank's program: kind, bytes, number of ranks, and how many of the deep program each is."""
    for node in collective_nodes(program):
        record = node.meta["collective"]
        yield record.kind, record.num_bytes, mesh.size(record.axis), program.members_of(node)


def _spent_us(sent: Iterable[tuple[CollectiveKind, float, int, int]], cost: CostModel) -> float:
    """The time of collectives: their kinds, bytes and numbers of ranks, and how many of each there are."""
    return math.fsum(members * cost.collective_us(kind, size, ranks) for kind, size, ranks, members in sent)
