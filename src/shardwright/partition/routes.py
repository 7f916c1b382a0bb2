"""How a value gets to the layouts that its readers want: what `walk` writes, known from the assignment alone."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from shardwright.assign.assignment import Assignment
from shardwright.assign.cost import collective_kind, has_collective
from shardwright.assign.steps import StepKind, Value
from shardwright.layout.layout import REPLICATE, Layout
from shardwright.program.collectives import CollectiveKind
from shardwright.rules.call import num_bytes, tensor_meta

Hop = tuple[Layout, Layout]
"""A change of layout: from one to another."""


@dataclass(frozen=True, slots=True)
class Move:
    """A collective that brings a value to another layout. ``num_bytes``: of the whole value. ``members``: how many of
    the deep program it is, where the program is shallow.
    """

    kind: CollectiveKind
    num_bytes: int
    members: int


def route(made: Collection[Layout], wanted: Layout, *, by_whole: bool) -> list[Hop]:
    """How a value that is there in the layouts ``made``, in order, gets to ``wanted``.

    ``by_whole``: some reader wants the whole value, of which others are then cut for free.
    """
    if wanted in made:
        return []
    source = next(iter(made))
    if REPLICATE not in (source, wanted) and (by_whole or not has_collective(source, wanted)):
        whole = [] if REPLICATE in made else [(source, REPLICATE)]
        return [*whole, (REPLICATE, wanted)]
    return [(source, wanted)]


def wanted_whole(assignment: Assignment) -> set[Value]:
    """The values that some reader wants whole."""
    found = set()
    whole: dict[int, list[int]] = {}
    """By strategy, of which many steps have one, the operands that it wants whole."""
    for step in assignment.steps.items:
        strategy = assignment.strategies[step.index]
        if strategy is None or step.kind is StepKind.SIZES:
            continue
        operands = whole.get(id(strategy))
        if operands is None:
            operands = whole[id(strategy)] = [i for i, one in enumerate(strategy.operands) if one == REPLICATE]
        for number in operands:
            if number < len(step.reads) and number not in step.unread:
                found.add(step.reads[number])
    return found


def moves(assignment: Assignment) -> Iterator[Move]:
    """The collectives that a rank's program will have along the axis of an assignment, those in subgraphs left out."""
    steps, whole = assignment.steps.items, wanted_whole(assignment)
    made: dict[Value, dict[Layout, None]] = {}
    for step in steps:
        strategy = assignment.strategies[step.index]
        if strategy is None or step.kind in (StepKind.PLAIN, StepKind.SIZES):
            continue
        for number, (value, layout) in enumerate(zip(step.reads, strategy.operands, strict=False)):
            if layout in made[value] or number in step.unread:
                continue
            for source, target in route(made[value], layout, by_whole=value in whole):
                made[value][target] = None
                tensor = steps[value[0]].vals[value[1]]
                if has_collective(source, target) and 0 not in tensor_meta(tensor).shape:
                    size, maker = num_bytes(tensor, assignment.program.fake_mode), steps[value[0]]
                    yield Move(collective_kind(source, target), size, maker.members)
        made.update({(step.index, number): {layout: None} for number, layout in enumerate(strategy.results)})
