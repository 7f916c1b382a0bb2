"""A plan and the caller's layouts as pins of a program: by placeholder, output position and module boundary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shardwright.errors import Finding, LayoutError, PlanError, near_misses, raise_findings
from shardwright.layout.layout import Layout, Partial, Shard, cut_of, resolve
from shardwright.layout.sizes import Size
from shardwright.layout.values import is_count
from shardwright.plan.resolve import Boundary, Pin, ResolvedPlan
from shardwright.plan.styles import as_layout
from shardwright.program.program import Program
from shardwright.program.signature import output_names


@dataclass
class Pins:
    """What the plan pins: placeholders by name (``free_cut``: the dim is pinned, the cut is not), outputs by position.

    An input or output that is not named is ``Replicate``; a parameter, buffer or constant that is not named is free.
    """

    state: dict[str, Layout] = field(default_factory=dict)
    free_cut: frozenset[str] = frozenset()
    inputs: dict[str, Layout] = field(default_factory=dict)
    outputs: dict[int, Layout] = field(default_factory=dict)
    boundaries: Sequence[Boundary] = ()
    weights: frozenset[str] = frozenset()
    """Inputs that are weights all the same: those of a subgraph."""
    may_stay_whole: frozenset[str] = frozenset()
    """Placeholders that need not be cut though the plan or the bound on bytes asks for it: an axis before this one
    has cut them as far as their heads allow."""
    reserved: Mapping[str, Sequence[tuple[Shard, int]]] = field(default_factory=dict)
    """Placeholders that are free here and that axes after this one cut: how, and in how many."""

    def leaves_enough(self, name: str, layout: Layout, shape: Sequence[Size]) -> bool:
        """Whether the axes after this one can cut what this layout of a free placeholder leaves of it."""
        along = [
            (later, num_ranks)
            for later, num_ranks in self.reserved.get(name, ())
            if isinstance(layout, Shard) and later.dim % len(shape) == layout.dim
        ]
        if not along or not isinstance(layout, Shard):
            return True
        sizes = [size for size in set(cut_of(layout).local_sizes()) if isinstance(size, int)]
        if sizes and max(sizes) < math.prod(num_ranks for _, num_ranks in along):
            return False
        return all(_can_lie(*along[0], (*shape[: layout.dim], size, *shape[layout.dim + 1 :])) for size in sizes)


def make_pins(program: Program, resolved: ResolvedPlan, inputs: Any, outputs: Any) -> Pins:
    """Pins by placeholder name and output position, from a resolved plan and the caller's layouts."""
    findings: list[Finding] = []
    pins = Pins(boundaries=resolved.boundaries)
    free = set()
    for item in program.inputs:
        if item.is_state and item.target in resolved.pins:
            pin = resolved.pins[item.target]
            pins.state[item.name] = pin.layout
            if not pin.exact:
                free.add(item.name)
    pins.free_cut = frozenset(free)
    findings += _summed_while_trained(program, resolved)
    _pin_ties(program, pins, resolved, findings)
    names = [item.name for item in program.user_inputs()]
    for name, layout in _layouts(inputs, names, findings, "input").items():
        pins.inputs[name] = layout
    # A shallow program returns less than its source, and is asked for no layouts of it.
    out_names = output_names(program) if outputs is not None else {}
    for name, layout in _layouts(outputs, list(out_names), findings, "output").items():
        pins.outputs[out_names[name]] = layout
    raise_findings(PlanError, findings, summary="the plan does not fit the program")
    return pins


def _summed_while_trained(program: Program, resolved: ResolvedPlan) -> list[Finding]:
    """Trained parameters that a plan makes a part of a sum: an optimiser would step on the parts, not on the sum."""
    trained = set(program.gradients().values())
    return [
        Finding(
            f"plan entry {pin.key!r} makes {item.target!r} a part of a sum on every rank, and it is trained: "
            "optimisers step on what a rank holds",
            remedies=(f"{pin.key!r}: 'replicate'", f"{pin.key!r}: Shard(dim)"),
        )
        for item in program.inputs
        if item.name in trained and isinstance((pin := resolved.pins.get(str(item.target))), Pin)
        if isinstance(pin.layout, Partial)
    ]


def follow(pins: Pins, program: Program, layouts: Mapping[str, Layout], num_ranks: int, *, is_auto: bool) -> Pins:
    """The pins of ranks that hold pieces of other sizes than those whose ``layouts``, by placeholder, are known.

    What the plan cuts and is shorter than the ranks are many may stay whole. Under the automatic plan what those ranks
    cut is cut on the same dims where it is long enough, and what they do not cut may stay whole: they hold the most.
    """
    shapes = {item.name: program.weights[str(item.target)].shape for item in program.inputs if item.is_state}
    state, free, short = dict(pins.state), set(pins.free_cut), set(pins.may_stay_whole)
    for name, shape in shapes.items():
        layout = layouts.get(name) if is_auto and name not in state else None
        if isinstance(layout, Shard) and shape[layout.dim] >= num_ranks:
            state[name] = Shard(layout.dim)
            free.add(name)
        elif layout is not None and not isinstance(layout, Shard):
            short.add(name)
        pinned = state.get(name)
        if name in free and isinstance(pinned, Shard) and shape[pinned.dim] < num_ranks:
            short.add(name)
    return replace(pins, state=state, free_cut=frozenset(free), may_stay_whole=frozenset(short))


def _can_lie(layout: Layout, num_ranks: int, shape: Sequence[Size]) -> bool:
    """Whether a tensor of this shape can lie so on so many ranks."""
    try:
        resolve(layout, shape, num_ranks)
    except LayoutError:
        return False
    return True


def _pin_ties(program: Program, pins: Pins, resolved: ResolvedPlan, findings: list[Finding]) -> None:
    """Pin every name of a tied weight as one of its names is pinned; entries that disagree are findings."""
    first: dict[int, Any] = {}
    held = [(item, str(item.target)) for item in program.inputs if item.is_state]
    for item, name in held:
        if item.name in pins.state:
            leader = first.setdefault(id(program.weights[name].tensor), item)
            if pins.state[leader.name] != pins.state[item.name]:
                findings.append(
                    Finding(
                        f"{leader.target!r} and {name!r} are one tied tensor, but plan entries "
                        f"{resolved.pins[leader.target].key!r} and {resolved.pins[name].key!r} disagree: "
                        f"{pins.state[leader.name]} against {pins.state[item.name]}",
                        remedies=("give both the same layout", "name only one of them"),
                    )
                )
    for item, name in held:
        leader = first.get(id(program.weights[name].tensor))
        if leader is not None and item.name not in pins.state:
            pins.state[item.name] = pins.state[leader.name]
            pins.free_cut |= {item.name} & ({item.name} if leader.name in pins.free_cut else set())


def _layouts(given: Any, names: Sequence[str], findings: list[Finding], what: str) -> dict[str, Layout]:
    if given is None:
        return {}
    asked = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    found: dict[str, Layout] = {}
    for key, value in asked.items():
        name = names[key] if is_count(key) and 0 <= key < len(names) else key
        if name not in names:
            close = tuple(repr(n) for n in near_misses(str(key), names)) or tuple(map(repr, names[:6]))
            findings.append(Finding(f"the program has no {what} {key!r}", remedies=close))
            continue
        try:
            layout = as_layout(value)
        except LayoutError as error:
            findings.append(Finding(f"{what} {name!r}: {error}"))
            continue
        if found.setdefault(name, layout) != layout:
            findings.append(Finding(f"{what} {name!r} is given twice, as {found[name]} and as {layout}"))
    return found
