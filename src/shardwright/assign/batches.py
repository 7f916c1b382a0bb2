"""Parts of batches: what inputs that are cut along their first dim make of the values behind them.

Of a joint program such inputs ask for data parallelism. Gathering a batch of token ids communicates less than adding up
the gradients of all weights, and every rank would do all of the work; so a part of a batch stays what it is wherever
whatever reads it can take it so. A call that reads two of them and cannot take both as they are (each sample of a
contrastive loss meets all others) is left to the solver, and what it makes is no part of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shardwright.assign.choices import Choices
from shardwright.assign.folding import Site
from shardwright.assign.steps import StepKind
from shardwright.assign.task import Task
from shardwright.layout.layout import Layout, Shard


@dataclass(frozen=True, slots=True)
class Batches:
    """``parts``: the layout of every value, as (site, result number), that is a part of a batch.

    ``takers``: the calls that take all of theirs.
    """

    parts: Mapping[tuple[int, int], Layout] = field(default_factory=dict)
    takers: frozenset[int] = frozenset()

    def part_of(
        self, site: int, result: int, readers: Sequence[tuple[int, int]]
    ) -> tuple[Layout | None, frozenset[tuple[int, int]]]:
        """The layout of a value that is a part of a batch, and those of its readers that take it so."""
        part = self.parts.get((site, result))
        return part, frozenset(one for one in readers if part is not None and one[0] in self.takers)


def parts_of_batches(task: Task, choices: Choices) -> Batches:
    """Which values are parts of batches; none of a program that is not joint, or whose inputs are whole."""
    cut = {name for name, layout in task.pins.inputs.items() if isinstance(layout, Shard) and layout.dim == 0}
    if not task.program.is_joint or not cut:
        return Batches()
    given = [site for site in task.folded.sites if site.step.kind is StepKind.INPUT and site.step.node.name in cut]
    first = {(site.index, 0): choices.strategies[site.index][0].results[0] for site in given}
    left: set[int] = set()
    while True:
        parts, takers, lost = _spread(task.folded.sites, choices, first, left)
        if not lost:
            return Batches(parts, frozenset(takers))
        # What was made by a call that cannot take all of its parts is no part after all.
        left |= lost


def _spread(
    sites: Sequence[Site], choices: Choices, first: Mapping[tuple[int, int], Layout], left: set[int]
) -> tuple[dict[tuple[int, int], Layout], set[int], set[int]]:
    """Pass parts on until nothing is new: the parts, the calls that take theirs, and those that cannot."""
    parts, takers, lost = dict(first), set[int](), set[int]()
    size = -1
    while size != len(parts):
        size = len(parts)
        for site in sites:
            wanted = {} if site.index in left else _parts_read(site, parts)
            if not wanted or site.step.kind not in (StepKind.CALL, StepKind.CONSTRAINT):
                continue
            fitting = [
                one
                for one in choices.strategies[site.index]
                if all({one.operands[number]} == layouts for number, layouts in wanted.items())
            ]
            if not fitting:
                lost.add(site.index)
                continue
            takers.add(site.index)
            for number in range(len(site.step.vals)):
                made = {one.results[number] for one in fitting}
                if len(made) == 1 and isinstance(layout := made.pop(), Shard):
                    parts.setdefault((site.index, number), layout)
    return parts, takers, lost


def _parts_read(site: Site, parts: Mapping[tuple[int, int], Layout]) -> dict[int, set[Layout]]:
    """The operands of a call that are parts of batches: number → their layouts, one where equal steps read alike."""
    found: dict[int, set[Layout]] = {}
    for number, sources in enumerate(site.reads):
        layouts = {parts[source] for source in sources if source in parts}
        if layouts and number not in site.step.unread:
            found[number] = layouts
    return found
