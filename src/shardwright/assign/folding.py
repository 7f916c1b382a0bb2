"""Fold repeated layers: equal steps of equal layers share one set of variables.

A *unit* is what lies under one numbered module (``layers.7``), outermost number first. Two units of the same container
are equal when their steps agree one by one in operator, constants, shapes, dtypes, pins and wiring. Folding only makes
steps share a choice, so it can never make an assignment wrong; it makes 80 layers cost what one costs.

The steps of a recurrent layer that was written out are units too, each of them one round.

Units that hold fewer than `MIN_WEIGHTS` matrices are left unfolded: in a plain stack of equal linear layers the best
assignment alternates between them. Rounds share their weights, and hold none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from shardwright.assign.steps import Step, StepKind, Steps, Value
from shardwright.layout.layout import Layout
from shardwright.program.nodes import is_tensor, module_path, subgraph_of
from shardwright.program.program import Program
from shardwright.rules.call import leaves
from shardwright.rules.operators.unrolled import ROUND

MIN_WEIGHTS = 2


@dataclass(slots=True)
class Site:
    """A class of equal steps; ``steps[0]`` speaks for all.

    ``reads``: per operand, the (site, result) values that members read there.
    """

    index: int
    steps: list[Step] = field(default_factory=list)
    reads: list[dict[Value, None]] = field(default_factory=list)

    @property
    def step(self) -> Step:
        """The representative."""
        return self.steps[0]


@dataclass(slots=True)
class Folded:
    """The sites in order of their first step, the site of each step, and the groups of equal values.

    ``values``: (site, result, readers) → how many values are so; readers are (site, operand) pairs, sorted.
    """

    sites: list[Site]
    site_of: list[int]
    values: dict[tuple[int, int, tuple[Value, ...]], int]


@dataclass(frozen=True, slots=True)
class Units:
    """The steps of every unit in order, the unit of each step and its place in it, and a number for each step of a
    unit: equal for steps that agree in all but what is pinned.
    """

    members: dict[tuple[str, str], list[Step]]
    place: dict[int, tuple[tuple[str, str], int]]
    numbers: dict[int, int]


def find_units(steps: Steps, program: Program) -> Units:
    """The units of a program's steps."""
    targets = {item.name: item.target or item.name for item in program.inputs}
    found = Units({}, {}, {})
    for step in steps.items:
        unit = _unit_of(step, targets)
        if unit is not None:
            members = found.members.setdefault(unit, [])
            found.place[step.index] = (unit, len(members))
            members.append(step)
    known: dict[tuple[Any, ...], int] = {}
    for unit, members in found.members.items():
        for step in members:
            key = _step_key(step, steps, unit, found.place, targets)
            found.numbers[step.index] = known.setdefault(key, len(known))
    return found


def fold_steps(steps: Steps, found: Units, pins: Mapping[str, Layout]) -> Folded:
    """Group equal steps. ``pins``: node name → pinned layout."""
    units, place = found.members, found.place
    signatures: dict[tuple[Any, ...], tuple[str, str]] = {}
    leader: dict[tuple[str, str], tuple[str, str]] = {}
    for unit, members in units.items():
        keys = ((found.numbers[step.index], pins.get(step.node.name)) for step in members)
        signature = (unit[0], *keys)
        matrices = sum(step.kind is StepKind.INPUT and _ndim(step) >= 2 for step in members)
        is_large = matrices >= MIN_WEIGHTS or _round_of(members[0]) is not None
        leader[unit] = signatures.setdefault(signature, unit) if is_large else unit
    sites: list[Site] = []
    site_of = [-1] * len(steps.items)
    for step in steps.items:
        if step.index in place:
            unit, position = place[step.index]
            first = units[leader[unit]][position].index
            if first != step.index:
                # A leader is the first unit seen with its signature, but its later steps may come after this one.
                if site_of[first] < 0:
                    site_of[first] = _new_site(sites, steps.items[first])
                site_of[step.index] = site_of[first]
                sites[site_of[first]].steps.append(step)
                continue
        if site_of[step.index] < 0:
            site_of[step.index] = _new_site(sites, step)
    return Folded(sites, site_of, _group_values(steps, sites, site_of))


def _new_site(sites: list[Site], step: Step) -> int:
    sites.append(Site(len(sites), [step], [{} for _ in step.reads]))
    return len(sites) - 1


def _group_values(
    steps: Steps, sites: list[Site], site_of: Sequence[int]
) -> dict[tuple[int, int, tuple[Value, ...]], int]:
    readers: dict[Value, list[Value]] = {}
    for step in steps.items:
        for position, (source, result) in enumerate(step.reads):
            sites[site_of[step.index]].reads[position].setdefault((site_of[source], result), None)
            readers.setdefault((source, result), []).append((site_of[step.index], position))
    groups: dict[tuple[int, int, tuple[Value, ...]], int] = {}
    for (source, result), found in readers.items():
        key = (site_of[source], result, tuple(sorted(set(found))))
        groups[key] = groups.get(key, 0) + 1
    return groups


def _round_of(step: Step) -> tuple[str, str] | None:
    """(layer, number) of the round that a step of a recurrent layer belongs to."""
    noted = step.node.meta.get("custom") or {}
    if step.kind is not StepKind.CALL or ROUND not in noted:
        return None
    label, number = noted[ROUND]
    return str(label), str(number)


def _unit_of(step: Step, targets: Mapping[str, str]) -> tuple[str, str] | None:
    """(container, number) of the round of a step, or of its outermost numbered module; None outside of any."""
    found = _round_of(step)
    if found is not None:
        return found
    path = targets.get(step.node.name, "") if step.kind is StepKind.INPUT else module_path(step.node)
    if step.kind is StepKind.OUTPUT:
        return None
    tokens = path.split(".")
    for position, token in enumerate(tokens):
        if token.isdigit() and position:
            return ".".join(tokens[:position]), token
    return None


def _relative(path: str, unit: tuple[str, str]) -> str:
    prefix = f"{unit[0]}.{unit[1]}"
    return path.removeprefix(prefix)


def _step_key(
    step: Step,
    steps: Steps,
    unit: tuple[str, str],
    place: Mapping[int, tuple[tuple[str, str], int]],
    targets: Mapping[str, str],
) -> tuple[Any, ...]:
    node = step.node
    shapes = tuple(_meta(v) for v in step.vals)
    if step.kind is StepKind.INPUT:
        return ("input", _relative(targets.get(node.name, node.name), unit), shapes)
    wiring = []
    for source, result in step.reads:
        owner = place.get(source)
        # What comes from outside may be another tensor for every unit: of another shape, and so under another rule.
        outside = ("outside", _meta(steps.items[source].vals[result]))
        wiring.append((owner[1], result) if owner is not None and owner[0] == unit else outside)
    constants = tuple(_constant(leaf) for leaf in leaves((node.args, node.kwargs)))
    path = _relative(module_path(node), unit)
    return (step.kind, node.target, path, shapes, tuple(wiring), repr(constants), step.layout)


def _constant(leaf: Any) -> Any:
    """What an argument says that is not a tensor: itself, a symbolic size, the code of a subgraph."""
    if not isinstance(leaf, fx.Node):
        return leaf
    subgraph = subgraph_of(leaf)
    if subgraph is not None:
        return tuple(inner.code for inner in subgraph.modules() if isinstance(inner, fx.GraphModule))
    return "tensor" if is_tensor(leaf) else str(leaf.meta.get("val"))


def _meta(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    return tuple(size if isinstance(size, int) else str(size) for size in tensor.shape), tensor.dtype


def _ndim(step: Step) -> int:
    return 0 if not step.vals or step.vals[0] is None else step.vals[0].dim()
