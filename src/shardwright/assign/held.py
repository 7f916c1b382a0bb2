"""What a rank holds of the weights under assignments, one a mesh axis, and the most that the automatic plan lets it."""

import math
from collections.abc import Collection, Iterator, Sequence

from shardwright.assign.assignment import Assignment, FractionRange
from shardwright.assign.choices import Choices
from shardwright.assign.cost import held_fraction
from shardwright.assign.problem import Problem, byte_limit, common_layouts
from shardwright.assign.task import Task
from shardwright.assign.unpacked import unpacked_factors
from shardwright.layout.layout import REPLICATE
from shardwright.program.program import Input, Program


def held_bytes(program: Program, assignments: Sequence[Assignment]) -> float:
    """The weight bytes of the rank that holds most, under the assignments of all axes of ``program``."""
    return sum(num_bytes * _fraction(item, assignments) for item, num_bytes in _weights(program))


def bytes_allowed(found: Assignment, slack: float) -> float:
    """The weight bytes a rank may hold on the axis of an assignment under the automatic plan, whatever it holds."""
    ranges = ((num_bytes, found.fraction_ranges[item.name]) for item, num_bytes in _weights(found.program))
    return byte_limit(((num_bytes * least, num_bytes * most) for num_bytes, (least, most) in ranges), slack)


def room_beside(found: Assignment, names: Collection[str], held: float, slack: float) -> float:
    """The share of the slack that these weights leave where a rank holds the fraction ``held`` of each.

    Negative where they take more than all of it.
    """
    extra = sum(
        num_bytes * (held - found.fraction_ranges[item.name][0])
        for item, num_bytes in _weights(found.program)
        if item.name in names
    )
    least, most = (bytes_allowed(found, share) for share in (0.0, slack))
    return 1 - extra / (most - least) if most > least else -math.inf


def fraction_ranges(task: Task, problem: Problem, choices: Choices) -> dict[str, FractionRange]:
    """Weight → the least and the largest fraction of it that a rank could hold on this axis.

    What may stay whole, since the axis before has cut it as far as it goes, is all there: it takes none of the slack.
    """
    common = common_layouts(problem)
    found = {}
    for step in task.steps.items:
        if task.is_state(step):
            site = task.folded.site_of[step.index]
            layouts = common.get(site) or [strategy.results[0] for strategy in choices.strategies[site]]
            fractions = [held_fraction(layout) for layout in layouts]
            may_stay_whole = step.node.name in task.pins.may_stay_whole
            found[step.node.name] = (1.0 if may_stay_whole else min(fractions)), max(fractions)
    return found


def _weights(program: Program) -> Iterator[tuple[Input, float]]:
    """Every weight with the bytes that count, but for buffers that the program writes to; one of several names by the
    first. Packed ones count as they are unpacked.
    """
    seen: set[int] = set()
    factors = unpacked_factors(program)
    written = set(program.mutations().values())
    for item in program.inputs:
        if item.is_state and item.target is not None and item.name not in written:
            weight = program.weights[item.target]
            if id(weight.tensor) not in seen:
                seen.add(id(weight.tensor))
                yield item, weight.num_bytes * factors.get(item.name, 1) * program.members.get(item.name, 1)


def _fraction(item: Input, assignments: Sequence[Assignment]) -> float:
    return math.prod(held_fraction(one.layouts.get(item.name, REPLICATE)) for one in assignments)
