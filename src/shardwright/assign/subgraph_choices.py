"""The strategies of calls whose subgraphs communicate: where weights that the plan cuts go into a branch or a loop."""

from collections.abc import Callable
from dataclasses import dataclass

from shardwright.assign.assignment import Assignment
from shardwright.assign.candidates import Candidates
from shardwright.assign.folding import Site
from shardwright.assign.given import Given
from shardwright.assign.higher_order import read_subgraphs
from shardwright.assign.inside import Assign, cuts_inside, ways_inside
from shardwright.assign.steps import Value
from shardwright.assign.task import Task
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Shard
from shardwright.program.program import Program
from shardwright.rules.rule import Strategy


@dataclass(frozen=True, slots=True)
class SubgraphSolver:
    """How a subgraph is solved: ``pinned`` under the layouts of its sides, ``free`` as a program of its own.

    Passed in, as what solves a subgraph is what solves the program around it.
    """

    pinned: Assign
    free: Callable[[Program], Assignment]


def subgraph_ways(
    task: Task, given: Given, candidates: Candidates, site: Site, solver: SubgraphSolver
) -> dict[Strategy, float]:
    """Strategies of a call and the time of the collectives inside, in microseconds.

    Under ``auto``, how subgraphs cut their weights is noted among the candidates.
    """
    values = [next(iter(sources)) for sources in site.reads]
    choices = [_operand_layouts(task, candidates, value) for value in values]
    weights = frozenset(i for i, (source, _) in enumerate(values) if task.is_weight(task.folded.sites[source]))
    found = read_subgraphs(site.step.node)
    if task.auto:
        free = frozenset(i for i in weights if values[i][0] in given.free_state)
        for i, layout in cuts_inside(found, free, solver.free).items():
            choices[i] = [layout]
            candidates.add(values[i], layout)
    if not any(isinstance(choices[i][0], Shard) for i in weights):
        return {}
    return dict(ways_inside(site.step.node, found, choices, weights, site.step.vals, solver.pinned))


def _operand_layouts(task: Task, candidates: Candidates, value: Value) -> list[Layout]:
    """The layouts in which a subgraph may take an operand: a pinned weight's own, others whole or cut."""
    site = task.folded.sites[value[0]]
    cuts = candidates.layouts(value, site.step.vals[value[1]].dim())
    if not task.is_weight(site):
        return [REPLICATE, *cuts]
    name = site.step.node.name
    pinned = {**task.pins.inputs, **task.pins.state}.get(name, REPLICATE)
    if name not in task.pins.free_cut or not isinstance(pinned, Shard):
        return [pinned]
    own: list[Layout] = [cut for cut in cuts if isinstance(cut, Shard) and cut.dim == pinned.dim]
    return own or [Shard(pinned.dim, Cut.even(site.step.vals[0].shape[pinned.dim], task.num_ranks))]
