"""Higher-order operators on one rank: the subgraphs they call are partitioned as programs of their own."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from shardwright.assign.assign import subgraph_solver
from shardwright.assign.assignment import Assignment
from shardwright.assign.higher_order import CutSubgraphs, read_subgraphs
from shardwright.assign.inside import CallLayouts, assign_inside
from shardwright.assign.steps import Step
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Shard, cut_of, local_shape
from shardwright.layout.sizes import Size, as_size
from shardwright.partition.emit import Emitter
from shardwright.program.nodes import subgraph_of
from shardwright.rules.call import symbolic_size
from shardwright.rules.rule import Rule, Strategy

if TYPE_CHECKING:
    from shardwright.partition.walk import Walk


def write_subgraph_call(walk: "Walk", step: Step, strategy: Strategy, arguments: tuple[Any, ...]) -> Any:
    """Write a higher-order call whose subgraphs are cut; its results. ``arguments``: the call's, on this rank."""
    found = read_subgraphs(step.node)
    changed = list(arguments)
    children = [
        walk.inside(program, assignment)
        for program, assignment in zip(found.programs, _assignments(walk, step, found, strategy), strict=True)
    ]
    graphs = [child.run().graph for child in children]
    changed[-1] = [*changed[-1], *_hoist_constants(walk, children)]
    for subgraph, program, child, graph in zip(found.call.subgraphs, found.programs, children, graphs, strict=True):
        if not isinstance(program.graph.output_node().args[0], (list, tuple)):
            graph.output_node().args = (graph.output_node().args[0][0],)  # type: ignore[index]
        changed[subgraph.position] = hold_subgraph(walk, subgraph.name, fx.GraphModule(child.owner, graph))
    return walk.emit.open(walk.emit.call(step.node.target, *changed, name=step.node.name))


def _assignments(walk: "Walk", step: Step, found: CutSubgraphs, strategy: Strategy) -> list[Assignment]:
    """Every subgraph's assignment: cut as the call is, or solved anew for the layouts that its sides have."""
    if strategy.cuts:
        return [found.assignment(number, strategy) for number in range(len(found.programs))]
    layouts = (*strategy.operands, *strategy.results)
    num_ranks = next(cut_of(layout).num_ranks for layout in layouts if isinstance(layout, Shard))
    makers = [walk.assignment.steps.items[maker].node.name for maker, _ in step.reads]
    weights = frozenset(i for i, name in enumerate(makers) if name in walk.assignment.weights)
    solver = subgraph_solver(num_ranks, walk.assignment.cost)
    made = assign_inside(found, CallLayouts(strategy.operands, strategy.results, weights), solver)
    assert made is not None, "what was solved once is solved again"
    return made


def _hoist_constants(walk: "Walk", children: "Sequence[Walk]") -> list[fx.Node]:
    """This rank's constants that any of the subgraphs needs, as further inputs of all of them; those of the call."""
    wanted = dict.fromkeys(key for child in children for key in child.constants.requested())
    for child in children:
        for key in wanted:
            child.constants.put_last(*key)
    return [walk.constants.node(*key) for key in wanted]


def hold_subgraph(walk: "Walk", name: str, subgraph: fx.GraphModule) -> fx.Node:
    """A ``get_attr`` node for a subgraph of this rank's own, named after the original's."""
    # The two parts of an axis are called "tp.0" and "tp.1", and a dot in a name would be a path.
    name = f"{name}_{walk.axis.replace('.', '_')}"
    while hasattr(walk.owner, name):
        name += "_"
    setattr(walk.owner, name, subgraph)
    getter = walk.emit.graph.create_node("get_attr", name)
    getter.meta = {"val": subgraph}
    return getter


def has_no_share(strategy: Strategy, rank: int) -> bool:
    """Whether a rank owns nothing of a call, operands and results alike: it would run on empty tensors."""
    return all(cut.local_size(rank) == 0 for _, cut in strategy.cuts) and all(
        isinstance(layout, Shard) for layout in strategy.results
    )


def empty_results(
    emit: Emitter, step: Step, strategy: Strategy, rank: int, operands: Sequence[fx.Node]
) -> list[fx.Node] | None:
    """The pieces, all empty, of a rank that owns nothing of a call; None where a size is neither a number nor that of
    an operand. ``operands``: the call's, on this rank.
    """
    shapes = []
    for val, layout in zip(step.vals, strategy.results, strict=True):
        assert val is not None, "only tensors are cut"
        whole = tuple(symbolic_size(size) for size in val.shape)
        shapes.append([_written_size(emit, size, operands) for size in map(as_size, local_shape(whole, layout, rank))])
    if any(size is None for shape in shapes for size in shape):
        return None
    return [
        emit.call(torch.ops.aten.zeros.default, shape, dtype=val.dtype, device=val.device)
        for val, shape in zip(step.vals, shapes, strict=True)
        if val is not None
    ]


def _written_size(emit: Emitter, size: Size, operands: Sequence[fx.Node]) -> int | fx.Node | None:
    """A size as a number, or read off the first operand that has it on this rank; None where none has."""
    if isinstance(size, int):
        return size
    for operand in operands:
        for dim, own in enumerate(operand.meta["val"].shape):
            if symbolic_size(own) == size:
                return emit.call(torch.ops.aten.sym_size.int, operand, dim)
    return None


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
    subgraph = subgraph_of(getter)
    assert subgraph is not None, "a function of flex_attention is a graph"
    graph = copy.deepcopy(subgraph.graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    seen = placeholders[index]
    if not seen.users:
        return hold_subgraph(walk, str(getter.target), subgraph), []
    here = walk.constants.node(tuple(starts), seen.meta["val"].dtype)
    with graph.inserting_after(placeholders[-1]):
        # Named after the axis, as a second axis may cut the same dim again.
        start = graph.create_node("placeholder", f"start_{walk.axis.replace('.', '_')}")
    start.meta = {"val": here.meta["val"]}
    with graph.inserting_after(start):
        total = graph.call_function(torch.ops.aten.add.Tensor, (seen, start))
    total.meta = dict(seen.meta)
    seen.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    return hold_subgraph(walk, str(getter.target), fx.GraphModule(subgraph, graph)), [here]
