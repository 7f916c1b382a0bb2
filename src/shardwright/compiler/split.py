"""One mesh axis as two, where heads are fewer than its ranks.

With 2 key-value heads on 8 ranks, the heads are cut on an axis of 2 ranks, and on an axis of 4 the queries of each
head, whose keys and values all 4 hold. Collectives that run along both are merged into one over all 8. Serving stacks
do this by hand, model by model, as key-value head replication (vLLM, TensorRT-LLM).
"""

import math

from torch.export.graph_signature import OutputKind

from shardwright.assign.cost import CostModel
from shardwright.compiler.sharded import ShardedProgram
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Shard, cut_of

_TIE = 1e-6


def splits(sharded: ShardedProgram, axis: str) -> list[int]:
    """How many ranks the first of two axes could have in place of ``axis``: as many as heads that are scarce allow.

    None where inputs, outputs or what the plan pins as it stands are cut other than in equal chunks: two cuts would not
    give ranks the same pieces. (A buffer that is written in place, a cache of scarce heads say, is nobody's output and
    may be held otherwise.)
    """
    num_ranks, assignment = sharded.mesh.size(axis), sharded.assignments[axis]
    exact = next(one.exact for one in sharded.passes if one.axis == axis)
    inputs = [item.name for item in sharded.program.user_inputs()]
    named = [assignment.layouts.get(name) for name in (*inputs, *exact)]
    returned = [
        strategy.operands[0]
        for step, strategy in zip(assignment.steps.items, assignment.strategies, strict=True)
        if strategy is not None
        and step.kind == "output"
        and sharded.program.outputs[step.output].kind != OutputKind.BUFFER_MUTATION
    ]
    if not all(_is_chunked(layout) for layout in (*named, *returned) if isinstance(layout, Shard)):
        return []
    found = {math.gcd(heads, num_ranks) for heads in assignment.scarce}
    return sorted(outer for outer in found if 1 < outer < num_ranks)


def is_even_on(sharded: ShardedProgram, axis: str) -> bool:
    """Whether all ranks get pieces of equal size along ``axis``, and cut them out of whole values by the same number
    of slices, so that one assignment on the next axis serves all.
    """
    assignment = sharded.assignments[axis]
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


def scarce_weights(sharded: ShardedProgram, axis: str) -> frozenset[str]:
    """The placeholders of the weights that hold scarce heads."""
    return frozenset().union(*sharded.assignments[axis].scarce.values())


def is_cheaper(candidate: ShardedProgram, held: ShardedProgram, cost: CostModel, *, slack: float | None) -> bool:
    """Whether a split pays: less communication; or as much, and fewer weight bytes on the busiest rank.

    ``slack``, under the automatic plan: less time, with weight bytes that exceed the other's by this share at most.
    """
    (ours, our_work), (theirs, their_work) = costs_us(candidate, cost), costs_us(held, cost)
    our_bytes, their_bytes = max(candidate.rank_bytes), max(held.rank_bytes)
    if slack is not None:
        return our_bytes <= their_bytes * (1 + slack) and ours + our_work < theirs + their_work
    if abs(ours - theirs) > _TIE * max(ours, theirs, 1.0):
        return ours < theirs
    return our_bytes < their_bytes


def costs_us(sharded: ShardedProgram, cost: CostModel) -> tuple[float, float]:
    """The time of the collectives and of the busiest rank's work, by the cost model, in microseconds."""
    assignments = list(sharded.assignments.values())
    talk = sum(cost.collective_us(c.kind, c.num_bytes, sharded.mesh.size(c.axis)) for c in sharded.collectives)
    return talk, assignments[-1].solution.work_us
