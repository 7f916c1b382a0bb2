"""One mesh axis as two, where heads are fewer than its ranks.

With 2 key-value heads on 8 ranks, the heads are cut on an axis of 2 ranks, and on an axis of 4 the queries of each
head, whose keys and values all 4 hold. Collectives that run along both are merged into one over all 8. Serving stacks
do this by hand, model by model, as key-value head replication (vLLM, TensorRT-LLM).
"""

import math

from shardwright.assign.cost import CostModel
from shardwright.sharded import ShardedProgram

_TIE = 1e-6


def splits(sharded: ShardedProgram, axis: str) -> list[int]:
    """How many ranks the first of two axes could have in place of ``axis``: as many as heads that are scarce allow."""
    num_ranks = sharded.mesh.size(axis)
    found = {math.gcd(heads, num_ranks) for heads in sharded.assignments[axis].scarce}
    return sorted(outer for outer in found if 1 < outer < num_ranks)


def scarce_weights(sharded: ShardedProgram, axis: str) -> frozenset[str]:
    """The placeholders of the weights that hold scarce heads."""
    return frozenset().union(*sharded.assignments[axis].scarce.values())


def is_cheaper(candidate: ShardedProgram, held: ShardedProgram, cost: CostModel, *, slack: float | None) -> bool:
    """Whether a split pays: less communication; or as much, and fewer weight bytes on the busiest rank.

    ``slack``, under the automatic plan: less time, with weight bytes that exceed the other's by this share at most.
    """
    (ours, our_work), (theirs, their_work) = _costs(candidate, cost), _costs(held, cost)
    our_bytes, their_bytes = _busiest_bytes(candidate), _busiest_bytes(held)
    if slack is not None:
        return our_bytes <= their_bytes * (1 + slack) and ours + our_work < theirs + their_work
    if abs(ours - theirs) > _TIE * max(ours, theirs, 1.0):
        return ours < theirs
    return our_bytes < their_bytes


def _costs(sharded: ShardedProgram, cost: CostModel) -> tuple[float, float]:
    """The time of the collectives and of the busiest rank's work."""
    assignments = list(sharded.assignments.values())
    talk = sum(cost.collective_us(c.kind, c.num_bytes, sharded.mesh.size(c.axis)) for c in sharded.collectives)
    return talk, assignments[-1].solution.work_us


def _busiest_bytes(sharded: ShardedProgram) -> int:
    weights = sharded.weights
    return max(sum(weight.rank_bytes[rank] for weight in weights) for rank in range(sharded.mesh.num_ranks))
