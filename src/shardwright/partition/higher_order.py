"""Higher-order operators on one rank: the regions they call are partitioned as programs of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from shardwright.assign.assign import region_solver
from shardwright.assign.assignment import Assignment
from shardwright.assign.higher_order import CutRegions, read_regions
from shardwright.assign.inside import Sides, assign_inside
from shardwright.assign.steps import Step
from shardwright.layout.layout import Shard, cut_of, local_shape
from shardwright.partition.emit import Emitter
from shardwright.rules.rule import Strategy

if TYPE_CHECKING:
    from shardwright.partition.partition import Walk


def own_holder(graph: fx.Graph, owner: nn.Module) -> nn.Module:
    """A module with what the ``get_attr`` nodes of a graph name, to which one rank's regions can be added."""
    holder = nn.Module()
    for node in graph.nodes:
        if node.op == "get_attr":
            first = str(node.target).split(".")[0]
            setattr(holder, first, getattr(owner, first))
    return holder


def write_region_call(walk: "Walk", step: Step, strategy: Strategy, arguments: tuple[Any, ...]) -> Any:
    """Write a higher-order call whose regions are cut; its results. ``arguments``: the call's, on this rank."""
    found = read_regions(step.node)
    changed = list(arguments)
    children = [
        walk.inside(program, assignment)
        for program, assignment in zip(found.programs, _assignments(walk, step, found, strategy), strict=True)
    ]
    graphs = [child.run().graph for child in children]
    changed[-1] = [*changed[-1], *_hoist_constants(walk, children)]
    for region, program, child, graph in zip(found.call.regions, found.programs, children, graphs, strict=True):
        if not isinstance(program.graph.output_node().args[0], (list, tuple)):
            graph.output_node().args = (graph.output_node().args[0][0],)  # type: ignore[index]
        changed[region.position] = hold_region(walk, region.name, fx.GraphModule(child.owner, graph))
    return walk.emit.open(walk.emit.call(step.node.target, *changed, name=step.node.name))


def _assignments(walk: "Walk", step: Step, found: CutRegions, strategy: Strategy) -> list[Assignment]:
    """Every region's assignment: cut as the call is, or solved anew for the layouts that its sides have."""
    if strategy.cuts:
        return [found.assignment(number, strategy) for number in range(len(found.programs))]
    layouts = (*strategy.operands, *strategy.results)
    num_ranks = next(cut_of(layout).num_ranks for layout in layouts if isinstance(layout, Shard))
    makers = [walk.assignment.steps.items[maker].node.name for maker, _ in step.reads]
    weights = frozenset(i for i, name in enumerate(makers) if name in walk.assignment.weights)
    made = assign_inside(found, Sides(strategy.operands, strategy.results, weights), region_solver(num_ranks))
    assert made is not None, "what was solved once is solved again"
    return made


def _hoist_constants(walk: "Walk", children: "Sequence[Walk]") -> list[fx.Node]:
    """This rank's constants that any of the regions needs, as further inputs of all of them; those of the call."""
    wanted = dict.fromkeys(key for child in children for key in child.constants.asked())
    for child in children:
        for key in wanted:
            child.constants.put_last(*key)
    return [walk.constants.node(*key) for key in wanted]


def hold_region(walk: "Walk", name: str, region: fx.GraphModule) -> fx.Node:
    """A ``get_attr`` node for a region of this rank's own, named after the original's."""
    # The two parts of an axis are called "tp.0" and "tp.1", and a dot in a name would be a path.
    name = f"{name}_{walk.axis.replace('.', '_')}"
    while hasattr(walk.owner, name):
        name += "_"
    setattr(walk.owner, name, region)
    getter = walk.emit.graph.create_node("get_attr", name)
    getter.meta = {"val": region}
    return getter


def has_no_share(strategy: Strategy, rank: int) -> bool:
    """Whether a rank owns nothing of a call, operands and results alike: it would run on empty tensors."""
    return all(cut.local_size(rank) == 0 for _, cut in strategy.cuts) and all(
        isinstance(layout, Shard) for layout in strategy.results
    )


def empty_results(emit: Emitter, step: Step, strategy: Strategy, rank: int) -> list[fx.Node]:
    """The pieces, all empty, of a rank that owns nothing of a call."""
    found = []
    for val, layout in zip(step.vals, strategy.results, strict=True):
        assert val is not None, "only tensors are cut"
        shape = [int(size) for size in local_shape(tuple(val.shape), layout, rank)]
        found.append(emit.call(torch.ops.aten.zeros.default, shape, dtype=val.dtype, device=val.device))
    return found
