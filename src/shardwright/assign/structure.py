"""What the graph says about a weight's dims: units that stay together (heads, groups of them), and parts of its own.

Nothing is assigned for this. With more ranks than there are units, every unit is a piece of its own, so that the
candidate cuts show them.
"""

from collections.abc import Collection
from dataclasses import dataclass

from shardwright.assign.agreed import Agreed
from shardwright.assign.candidates import Candidates
from shardwright.assign.choices import find_cuts
from shardwright.assign.given import read_given
from shardwright.assign.site_rules import read_rules
from shardwright.assign.steps import StepKind, Value
from shardwright.assign.task import make_task
from shardwright.layout.cut import Blocks, describe_cut
from shardwright.plan.pins import Pins
from shardwright.program.program import Program

MOST_RANKS = 4097
"""A cut is a list of runs, one a rank at least, so that millions of ranks would take minutes. There are fewer heads."""


@dataclass(frozen=True, slots=True)
class DimStructure:
    """A dim that the program takes apart. ``units``: the sizes of runs of indices that it keeps together, the smallest
    first: a head, then a group of them. ``parts``: the sizes of parts that are cut each by itself (query, key and value
    of one projection); empty for a dim of one part.
    """

    dim: int
    units: tuple[int, ...]
    parts: tuple[int, ...]

    def __str__(self) -> str:
        units = f"units of {' or '.join(map(str, self.units))}" if self.units else ""
        parts = f"parts {' + '.join(map(str, self.parts))}" if self.parts else ""
        return f"dim {self.dim}: {', '.join(filter(None, (units, parts)))}"


def weight_structure(program: Program) -> dict[str, list[DimStructure]]:
    """Parameter, buffer or constant → the dims of it that have structure; those without are left out."""
    sizes = [size for item in program.inputs if item.is_state for size in program.weights[str(item.target)].shape]
    num_ranks = min(1 + max(sizes, default=1), MOST_RANKS)
    task = make_task(program, Pins(), num_ranks, auto=True, cost=None, agreed=Agreed())
    candidates = find_cuts(task, read_rules(task.folded.sites).rules, read_given(task))
    packed = {tuple(stop - start for start, stop, _ in pack.parts) for pack in candidates.packs}
    targets = {item.name: item.target for item in program.inputs if item.is_state and item.target is not None}
    found: dict[str, list[DimStructure]] = {}
    for site in task.folded.sites:
        names = [targets[step.node.name] for step in site.steps if step.node.name in targets]
        if site.step.kind is StepKind.INPUT and names:
            dims = _structured((site.index, 0), len(site.step.vals[0].shape), candidates, packed)
            found |= dict.fromkeys(names, dims) if dims else {}
    return found


def _structured(
    value: Value, num_dims: int, candidates: Candidates, packed: Collection[tuple[int, ...]]
) -> list[DimStructure]:
    found = []
    for dim in range(num_dims):
        described = [describe_cut(cut) for cut in candidates.dims.get((value, dim), ())]
        blocks = [how for how in described if isinstance(how, Blocks)]
        units = sorted({how.unit for how in blocks if not how.parts and how.unit > 1})
        parts = next((how.parts for how in blocks if how.parts in packed), ())
        if units or parts:
            found.append(DimStructure(dim, tuple(units), parts))
    return found
