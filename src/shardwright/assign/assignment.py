"""What an assignment is: a strategy for every step of a program, and what it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from shardwright.assign.cost import CostModel
from shardwright.assign.problem import Solution
from shardwright.assign.steps import Steps
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout
from shardwright.plan.resolve import Boundary
from shardwright.program.nodes import module_path, op_name, source_line
from shardwright.program.program import Program
from shardwright.rules.rule import Call, Rule, Strategy

FractionRange = tuple[float, float]
"""The least and the largest fraction of a weight that a rank could hold."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """An operator run whole on every rank because it has no rule."""

    node: str
    op: str
    module: str
    source: str
    reason: str

    @staticmethod
    def of(node: fx.Node, reason: str) -> "Fallback":
        """The warning about a node that runs whole."""
        return Fallback(node.name, op_name(node.target), module_path(node), source_line(node), reason)


@dataclass
class Assignment:
    """A strategy, with the rule and call it came from, for every step of a program on one axis.

    ``program``: the one that was solved, composite operators written out where that saved a gather (``expanded``).
    """

    program: Program
    steps: Steps
    strategies: list[Strategy | None]
    rules: list[Rule | None]
    calls: list[Call | None]
    layouts: dict[str, Layout]
    """The layout of every placeholder, by name."""
    fallbacks: list[Fallback]
    solution: Solution
    num_sites: int = 0
    boundaries: Sequence[Boundary] = ()
    expanded: Mapping[str, Cut | None] = field(default_factory=dict)
    """The names of nodes that were written out, each with the cut of what stood behind a gather before it."""
    weights: frozenset[str] = frozenset()
    """The names of placeholders that are weights: the program's own, or of the call that runs it as a subgraph."""
    scarce: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Number of heads, fewer than the ranks → the weights that hold so many: no cut of them serves all ranks."""
    cost: CostModel = field(default_factory=CostModel)
    """What it was priced by."""
    whole_work_us: float = 0.0
    """The time of the work on one rank alone, which holds everything whole."""
    work_us: Sequence[float] = ()
    """The time of every step's work on the busiest rank."""

    fraction_ranges: Mapping[str, FractionRange] = field(default_factory=dict)
    """Under the automatic plan, by the placeholder of every weight."""

    def module_work_us(self) -> dict[str, float]:
        """Module path → the time of its own operators on the busiest rank, without those of modules inside it."""
        found: dict[str, float] = {}
        for step, time_us in zip(self.steps.items, self.work_us, strict=True):
            if time_us:
                path = module_path(step.node)
                found[path] = found.get(path, 0.0) + time_us
        return found

    @property
    def cost_us(self) -> float:
        """What it takes by the cost model: collectives and work."""
        return self.solution.communication_us + self.solution.work_us
