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
from shardwright.program.nodes import is_tensor, module_path, numbered_module, subgraph_of
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

    @property
    def members(self) -> int:
        """How many steps of the deep program it is."""
        return sum(step.members for step in self.steps)


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
    """The steps of every unit in order, the unit of each step and its place in it; ``forms``: a number for each unit,
    equal for units of one container whose steps agree in all but what is pinned; ``named``: by node name, the places of
    its steps; ``folded``: what units were folded to, by the units that spoke for them.
    """

    members: dict[tuple[str, str], list[Step]] = field(default_factory=dict)
    place: dict[int, tuple[tuple[str, str], int]] = field(default_factory=dict)
    forms: dict[tuple[str, str], int] = field(default_factory=dict)
    named: dict[str, list[tuple[tuple[str, str], int]]] = field(default_factory=dict)
    folded: dict[tuple[tuple[str, str], ...], Folded] = field(default_factory=dict)


def find_units(steps: Steps, program: Program) -> Units:
    """The units of a program's steps."""
    targets = {item.name: item.target or item.name for item in program.inputs}
    found = Units()
    for step in steps.items:
        unit = _unit_of(step, targets)
        if unit is not None:
            members = found.members.setdefault(unit, [])
            found.place[step.index] = place = (unit, len(members))
            found.named.setdefault(step.node.name, []).append(place)
            members.append(step)
    keys, known = _Keys(steps, found.place, targets), dict[tuple[Any, ...], int]()
    forms: dict[tuple[Any, ...], int] = {}
    for unit, members in found.members.items():
        numbers = (known.setdefault(keys.of(step, unit), len(known)) for step in members)
        form = (unit[0], *numbers)
        found.forms[unit] = forms.setdefault(form, len(forms))
    return found


def fold_steps(steps: Steps, found: Units, pins: Mapping[str, Layout]) -> Folded:
    """Group equal steps. ``pins``: node name → pinned layout."""
    leaders = _leaders(found, pins)
    speaking = tuple(leaders.values())
    if speaking not in found.folded:
        found.folded[speaking] = _folded(steps, found, leaders)
    return found.folded[speaking]


def _leaders(found: Units, pins: Mapping[str, Layout]) -> dict[tuple[str, str], tuple[str, str]]:
    """The unit that speaks for each: the first that is like it, pins and all."""
    pinned: dict[tuple[str, str], list[tuple[int, Layout]]] = {}
    for name, layout in pins.items():
        for unit, position in found.named.get(name, ()):
            pinned.setdefault(unit, []).append((position, layout))
    signatures: dict[tuple[Any, ...], tuple[str, str]] = {}
    leaders: dict[tuple[str, str], tuple[str, str]] = {}
    for unit, members in found.members.items():
        first = signatures.setdefault((found.forms[unit], frozenset(pinned.get(unit, ()))), unit)
        # Units of one form are equally large.
        leaders[unit] = first if first != unit and _is_large(members) else unit
    return leaders


def _is_large(members: Sequence[Step]) -> bool:
    matrices = sum(step.kind is StepKind.INPUT and _ndim(step) >= 2 for step in members)
    return matrices >= MIN_WEIGHTS or _round_of(members[0]) is not None


def _folded(steps: Steps, found: Units, leaders: Mapping[tuple[str, str], tuple[str, str]]) -> Folded:
    units, place = found.members, found.place
    sites: list[Site] = []
    site_of = [-1] * len(steps.items)
    for step in steps.items:
        if step.index in place:
            unit, position = place[step.index]
            first = units[leaders[unit]][position].index
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
        groups[key] = groups.get(key, 0) + steps.items[source].members
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
    if step.kind is StepKind.OUTPUT:
        return None
    path = targets.get(step.node.name, "") if step.kind is StepKind.INPUT else module_path(step.node)
    module = numbered_module(path)
    if module is None:
        return None
    container, _, number = module.rpartition(".")
    return container, number


def _relative(path: str, unit: tuple[str, str]) -> str:
    prefix = f"{unit[0]}.{unit[1]}"
    return path.removeprefix(prefix)


class _Keys:
    """What steps of units are compared by. Values are asked once for what they are, however many steps read them."""

    def __init__(
        self, steps: Steps, place: Mapping[int, tuple[tuple[str, str], int]], targets: Mapping[str, str]
    ) -> None:
        self.steps, self.place, self.targets = steps, place, targets
        self.known: dict[Value, Any] = {}

    def of(self, step: Step, unit: tuple[str, str]) -> tuple[Any, ...]:
        """Equal for steps of equal units that agree in all but what is pinned."""
        node = step.node
        shapes = tuple(self._meta((step.index, number)) for number in range(len(step.vals)))
        if step.kind is StepKind.INPUT:
            return ("input", _relative(self.targets.get(node.name, node.name), unit), shapes)
        wiring: list[tuple[Any, Any]] = []
        for value in step.reads:
            owner = self.place.get(value[0])
            # What comes from outside may be another tensor for every unit: of another shape, and so under another rule.
            if owner is not None and owner[0] == unit:
                wiring.append((owner[1], value[1]))
            else:
                wiring.append(("outside", self._meta(value)))
        constants = [_constant(leaf) for leaf in leaves((node.args, node.kwargs))]
        path = _relative(module_path(node), unit)
        return (step.kind, node.target, path, shapes, tuple(wiring), repr(constants), step.layout)

    def _meta(self, value: Value) -> Any:
        if value not in self.known:
            self.known[value] = _meta(self.steps.items[value[0]].vals[value[1]])
        return self.known[value]


def _constant(leaf: Any) -> Any:
    """What an argument says that is not a tensor: itself, a symbolic size, the code of a subgraph."""
    if not isinstance(leaf, fx.Node):
        return leaf
    if is_tensor(leaf):
        return "tensor"
    subgraph = subgraph_of(leaf)
    if subgraph is not None:
        return tuple(inner.code for inner in subgraph.modules() if isinstance(inner, fx.GraphModule))
    return str(leaf.meta.get("val"))


def _meta(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    shape = tuple(tensor.shape)
    if not all(type(size) is int for size in shape):
        shape = tuple(size if isinstance(size, int) else str(size) for size in shape)
    return shape, tensor.dtype


def _ndim(step: Step) -> int:
    return 0 if not step.vals or step.vals[0] is None else step.vals[0].dim()
