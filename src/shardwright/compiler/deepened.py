"""`deepen_compiled`: what was compiled of a shallow program, as if the deep one had been compiled.

Ranks' programs are written at once, as they are wanted. Assignments of the deep program, which only reports and pages
read, are spelled out when they are asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.expand import expand
from shardwright.assign.gathered import GatheredWeight
from shardwright.assign.steps import Step, StepKind, build_steps
from shardwright.compiler.axes import Compiled
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout
from shardwright.layout.mesh import Coordinates
from shardwright.partition.deepen import deepen
from shardwright.partition.written_layers import find_written, pair_nodes
from shardwright.plan.resolve import Boundary
from shardwright.program.program import Program
from shardwright.program.shallow import Shallow


def deepen_compiled(compiled: Compiled, shallow: Shallow) -> Compiled:
    """The deep program compiled as the shallow one was. Raises `UnlikeLayersError` where that cannot be."""
    for place in compiled.kinds():
        for depth in range(1, len(place)):
            find_written(compiled.program_after(place[:depth]), shallow)
    for one in compiled.axes:
        for assignment in one.assignments.values():
            find_written(assignment.program, shallow)
    deep = _Deepened(shallow.deep, compiled.mesh, shallow=shallow, short=compiled)
    axes = tuple(
        replace(one, assignments=_Assignments(deep, depth, one.assignments)) for depth, one in enumerate(compiled.axes)
    )
    deep = replace(deep, axes=axes)
    for place in compiled.kinds():
        deep.finished(place, keep=True)
    return deep


@dataclass(frozen=True, slots=True)
class _Deepened(Compiled):
    """A deep program, compiled as the shallow one was: ``short``."""

    shallow: Shallow = field(kw_only=True)
    short: Compiled = field(kw_only=True)

    def write_after(self, where: Coordinates) -> Program:
        return deepen(self.short.program_after(where), self.shallow)

    def write_finished(self, where: Coordinates) -> Program:
        return deepen(self.short.finished(where), self.shallow)

    def given_up(self, where: Coordinates) -> Program:
        # To write it again takes no longer than to copy it.
        program = self.finished(where)
        self.forget(where)
        return replace(program)

    def layouts_by_kind(self, depth: int, name: str) -> dict[Coordinates, Layout]:
        return self.short.layouts_by_kind(depth, self.shallow.stands_for().get(name, name))

    def gathered_weights(self) -> list[GatheredWeight]:
        # Assignments are spelled out only where there is something to say.
        return Compiled.gathered_weights(self) if self.short.gathered_weights() else []

    def gap(self) -> float:
        return self.short.gap()


class _Assignments(Mapping[Coordinates, Assignment]):
    """The assignments of a deep program on an axis, made of those of the shallow one when they are asked for."""

    def __init__(self, deep: _Deepened, depth: int, known: Mapping[Coordinates, Assignment]) -> None:
        self._deep, self._depth, self._known = deep, depth, known
        self._made: dict[Coordinates, Assignment] = {}

    def __getitem__(self, place: Coordinates) -> Assignment:
        if place not in self._made:
            self._made[place] = _deepened(self._known[place], self._deep, place)
        return self._made[place]

    def __iter__(self) -> Iterator[Coordinates]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _deepened(found: Assignment, deep: _Deepened, place: Coordinates) -> Assignment:
    """An assignment of the shallow program at a place, spelled out for the deep one."""
    shallow, program = deep.shallow, deep.program_after(place)
    stands_for = shallow.stands_for()
    names: dict[str, Cut | None] = {}
    if found.expanded:
        pairs = pair_nodes(deep.short.program_after(place), program, shallow)
        names = {node.name: found.expanded[kept.name] for node, kept in pairs.items() if kept.name in found.expanded}
        program = expand(program, names)
    pairs = pair_nodes(found.program, program, shallow)
    boundaries = [*found.boundaries, *_of_left_out(found.boundaries, shallow)]
    steps, _ = build_steps(program, boundaries)
    places = _places(found.steps.items, steps.items, pairs, _outputs(shallow))
    reasons = {one.node: one.reason for one in found.fallbacks}
    inputs = [item.name for item in program.inputs]
    kept = {name: stands_for.get(name, name) for name in inputs}
    return replace(
        found,
        program=program,
        steps=steps,
        strategies=[found.strategies[place] for place in places],
        rules=[found.rules[place] for place in places],
        calls=[found.calls[place] for place in places],
        work_us=[found.work_us[place] for place in places] if found.work_us else (),
        layouts={name: found.layouts[kept[name]] for name in inputs if kept[name] in found.layouts},
        fallbacks=[Fallback.of(node, reasons[one.name]) for node, one in pairs.items() if one.name in reasons],
        expanded=names,
        weights=frozenset(name for name in inputs if kept[name] in found.weights),
        scarce={
            heads: frozenset(name for name in inputs if kept[name] in holders)
            for heads, holders in found.scarce.items()
        },
        fraction_ranges={
            name: found.fraction_ranges[kept[name]] for name in inputs if kept[name] in found.fraction_ranges
        },
        boundaries=tuple(boundaries),
    )


def _places(
    kept: Sequence[Step], steps: Sequence[Step], pairs: Mapping[fx.Node, fx.Node], outputs: Mapping[int, int]
) -> list[int]:
    """For each step of the deep program, the number of that of the shallow one that it is."""
    known: dict[fx.Node, list[int]] = {}
    returned: dict[int, int] = {}
    for step in kept:
        if step.kind is StepKind.OUTPUT:
            returned[step.output] = step.index
        else:
            known.setdefault(step.node, []).append(step.index)
    seen: dict[fx.Node, int] = {}
    found = []
    for step in steps:
        if step.kind is StepKind.OUTPUT:
            found.append(returned[outputs[step.output]])
            continue
        # A node has steps besides its own where a plan pins what enters or leaves its module.
        number = seen.get(step.node, 0)
        seen[step.node] = number + 1
        found.append(known[pairs[step.node]][number])
    return found


def _outputs(shallow: Shallow) -> dict[int, int]:
    """For each output of the deep program, the number of the shallow one's that it is."""
    numbers = {mine: number for number, mine in enumerate(shallow.outputs)}
    returned = shallow.deep.numbers_of_outputs()
    for stack in shallow.stacks:
        for layer in stack.left_out:
            for kept, out in zip(stack.kept.nodes, layer.nodes, strict=True):
                pairs = zip(returned.get(kept, ()), returned.get(out, ()), strict=True)
                numbers.update((theirs, numbers[mine]) for mine, theirs in pairs)
    return numbers


def _of_left_out(boundaries: Sequence[Boundary], shallow: Shallow) -> Iterator[Boundary]:
    """What is pinned of the layers that are left out, as it is of the ones that stand for them."""
    for stack in shallow.stacks:
        module = stack.kept.module
        for one in boundaries:
            if one.module == module or one.module.startswith(f"{module}."):
                for layer in stack.left_out:
                    yield replace(one, module=layer.module + one.module.removeprefix(module))
