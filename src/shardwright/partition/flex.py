"""`flex_attention` on one rank: its score and mask functions are told the global batch entry and head."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from shardwright.assign.steps import Step
from shardwright.layout.layout import Cut
from shardwright.partition.higher_order import hold_region
from shardwright.program.nodes import region_of
from shardwright.rules.rule import Rule, Strategy

if TYPE_CHECKING:
    from shardwright.partition.partition import Walk

_SCORE_MOD, _BLOCK_MASK, _SCORE_BUFFERS, _MASK_BUFFERS = 3, 4, 7, 8
"""Argument numbers; the mask function is the last entry of the block mask."""


def write_flex_attention(
    walk: "Walk", step: Step, rule: Rule, strategy: Strategy, arguments: Sequence[Any]
) -> list[fx.Node]:
    """Write the call on this rank's batch entries or heads; its results."""
    ((name, cut),) = strategy.cuts
    group = rule.sizes.get("r", 1) if name == "g" else 1
    assert isinstance(group, int), "head counts are numbers"
    starts = [start * group for start in _starts(cut)]
    changed = [*arguments, *((),) * (_MASK_BUFFERS + 1 - len(arguments))]
    original: Any = step.node.args
    # The functions' placeholders: (score,) batch, head, query, key, then their buffers.
    index = 0 if name == "b" else 1
    block_mask = list(changed[_BLOCK_MASK])
    changed[_SCORE_MOD], extra = _shifted(walk, original[_SCORE_MOD], index + 1, starts)
    changed[_SCORE_BUFFERS] = (*changed[_SCORE_BUFFERS], *extra)
    block_mask[-1], extra = _shifted(walk, original[_BLOCK_MASK][-1], index, starts)
    changed[_BLOCK_MASK] = tuple(block_mask)
    changed[_MASK_BUFFERS] = (*changed[_MASK_BUFFERS], *extra)
    return walk.emit.open(walk.emit.call(step.node.target, *changed, name=step.node.name))


def _starts(cut: Cut) -> list[int]:
    """The first global index of every rank. Raises ValueError where a rank owns several ranges."""
    found = [cut.intervals(rank) or [(0, 0)] for rank in range(cut.num_ranks)]
    if any(len(ranges) > 1 for ranges in found):
        raise ValueError("a rank would own heads that do not follow each other")
    return [ranges[0][0] for ranges in found]


def _shifted(walk: "Walk", getter: fx.Node, index: int, starts: Sequence[int]) -> tuple[fx.Node, list[fx.Node]]:
    """A function with ``starts`` of this rank added to its placeholder number ``index``, and its further buffers."""
    region = region_of(getter)
    assert region is not None, "a function of flex_attention is a graph"
    graph = copy.deepcopy(region.graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    seen = placeholders[index]
    if not seen.users:
        return hold_region(walk, str(getter.target), region), []
    here = walk.constants.node(tuple(starts), seen.meta["val"].dtype)
    with graph.inserting_after(placeholders[-1]):
        # Named after the axis, as a second axis may cut the same dim again.
        start = graph.create_node("placeholder", f"start_{walk.axis.replace('.', '_')}")
    start.meta = {"val": here.meta["val"]}
    with graph.inserting_after(start):
        total = graph.call_function(torch.ops.aten.add.Tensor, (seen, start))
    total.meta = dict(seen.meta)
    seen.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    return hold_region(walk, str(getter.target), fx.GraphModule(region, graph)), [here]
