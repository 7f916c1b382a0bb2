"""A plan and the caller's layouts as pins of a program: by placeholder, output position and module boundary."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.utils._pytree as pytree

from shardwright.assign.assign import Pins
from shardwright.assign.steps import ModuleBoundary
from shardwright.errors import Finding, LayoutError, PlanError, near_misses, raise_findings
from shardwright.layout.layout import Layout
from shardwright.layout.values import is_count
from shardwright.plan.resolve import ResolvedPlan, TensorInfo, resolve_plan
from shardwright.plan.styles import as_layout
from shardwright.program.program import Program


def resolve_axis(program: Program, entries: Mapping[str, Any], num_ranks: int, **options: Any) -> ResolvedPlan:
    """Plan entries resolved against a program's tensors and modules; ``options`` as of `resolve_plan`."""
    return resolve_plan(entries, tensors_of(program), program.modules(), num_ranks, **options)


def tensors_of(program: Program) -> dict[str, TensorInfo]:
    """What a plan may name besides modules: every parameter, buffer and constant, as axes so far have cut it."""
    tensors = {}
    for item in program.inputs:
        if item.is_state and item.target is not None:
            kind = "parameter" if item.kind.name == "PARAMETER" else "buffer"
            tensors[item.target] = TensorInfo(program.weights[item.target].shape, kind)
    return tensors


def make_pins(program: Program, resolved: ResolvedPlan, inputs: Any, outputs: Any) -> Pins:
    """Pins by placeholder name and output position, from a resolved plan and the caller's layouts."""
    findings: list[Finding] = []
    pins = Pins(boundaries=[ModuleBoundary(b.module, b.side, b.layout, b.key, b.position) for b in resolved.boundaries])
    free = set()
    for item in program.inputs:
        if item.is_state and item.target in resolved.pins:
            pin = resolved.pins[item.target]
            pins.state[item.name] = pin.layout
            if not pin.exact:
                free.add(item.name)
    pins.free_cut = frozenset(free)
    _pin_ties(program, pins, resolved, findings)
    names = [item.name for item in program.user_inputs()]
    for name, layout in _layouts(inputs, names, findings, "input").items():
        pins.inputs[name] = layout
    out_names = output_names(program)
    for name, layout in _layouts(outputs, list(out_names), findings, "output").items():
        pins.outputs[out_names[name]] = layout
    raise_findings(PlanError, findings, summary="the plan does not fit the program")
    return pins


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


def output_names(program: Program) -> dict[str, int]:
    """The name of every user output (its path in the returned structure, or its position) → position in the graph."""
    spec = program.source.call_spec.out_spec
    positions = [i for i, output in enumerate(program.outputs) if output.kind.name == "USER_OUTPUT"]
    if spec is None:
        return {str(i): position for i, position in enumerate(positions)}
    tree = pytree.tree_unflatten(list(range(len(positions))), spec)
    found = {}
    for path, number in pytree.tree_flatten_with_path(tree)[0]:
        name = ".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
        found[name or "0"] = positions[number]
    return found


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
