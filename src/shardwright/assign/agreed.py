"""What ranks elsewhere on the mesh have to agree on: the layouts at the collectives of the axes before.

Ranks at different places along an axis that is compiled already communicate along it. Where they hold pieces of other
sizes, each place is assigned by itself on the axes that follow; only what enters and leaves these collectives has to
lie alike on all of them. Any layout can be made of a whole value without communicating, so that can always be had.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.assign.folding import Site
from shardwright.assign.steps import Step
from shardwright.layout.layout import Layout, Owned
from shardwright.program.collectives import COLLECTIVES, axis_of, holds_collectives
from shardwright.program.nodes import subgraph_of
from shardwright.program.program import Program
from shardwright.rules.rule import Strategy


@dataclass(frozen=True, slots=True)
class Agreed:
    """What ranks elsewhere leave open for a program, by node.

    ``uncut``: calls of which no factor may be cut. ``held``: collectives whose layouts are settled. ``is_shared``:
    whether the program's collectives are met by ranks that are assigned by themselves.
    """

    uncut: frozenset[str] = frozenset()
    held: Mapping[str, Strategy] = field(default_factory=dict)
    is_shared: bool = False

    def layouts(self) -> dict[str, Layout]:
        """The layouts that settled collectives leave, by node."""
        return {name: strategy.results[0] for name, strategy in self.held.items()}

    def may_cut(self, site: Site) -> bool:
        """Whether the factors of a site may be cut: not where its subgraphs communicate with ranks elsewhere."""
        if self.uncut and any(step.node.name in self.uncut for step in site.steps):
            return False
        return not (self.is_shared and communicates_inside(site.step.node))

    def allows(self, step: Step, strategy: Strategy) -> bool:
        """Whether a collective that ranks elsewhere meet may have these layouts: rows of no known rank they lack."""
        if not self.is_shared or step.node.target not in COLLECTIVES:
            return True
        return not any(isinstance(layout, Owned) for layout in (*strategy.operands, *strategy.results))


def communicates_inside(node: fx.Node) -> bool:
    """Whether a call runs graphs that hold collectives."""
    subgraphs = [subgraph for argument in node.all_input_nodes if (subgraph := subgraph_of(argument)) is not None]
    return any(holds_collectives(one.graph) for one in subgraphs)


def settled_by(peer: Assignment, program: Program, axis: str) -> dict[str, Strategy]:
    """What ranks at another place along ``axis`` have chosen for the collectives along it, by this program's nodes.

    Both programs have these collectives in one order, as one assignment of that axis made them.
    """
    theirs = [s for s in peer.steps.items if axis_of(s.node) == axis]
    ours = [node for node in program.graph.nodes if axis_of(node) == axis]
    assert len(ours) == len(theirs), f"ranks along {axis} meet in {len(ours)} and {len(theirs)} collectives"
    return {node.name: _strategy(peer, step) for node, step in zip(ours, theirs, strict=True)}


def keeps(found: Assignment, held: Mapping[str, Strategy]) -> bool:
    """Whether an assignment has the layouts that are settled."""
    return all(_sides(_strategy(found, step)) == _sides(held[step.node.name]) for step in _held_steps(found, held))


def _held_steps(found: Assignment, held: Mapping[str, Strategy]) -> Iterator[Step]:
    return (step for step in found.steps.items if step.node.name in held)


def _strategy(found: Assignment, step: Step) -> Strategy:
    strategy = found.strategies[step.index]
    assert strategy is not None, f"{step.node.name} has no strategy"
    return strategy


def _sides(strategy: Strategy) -> tuple[Sequence[Layout], Sequence[Layout]]:
    return strategy.operands, strategy.results
