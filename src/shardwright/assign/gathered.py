"""Weights that are cut and yet brought together at every call, because something reads them otherwise.

A gather of activations is what a plan costs; a gather of a weight is a plan that does not pay: memory is saved, and
the whole weight is sent again for every call. Where nothing else works it happens, with a warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step, StepKind
from shardwright.layout.layout import REPLICATE, Layout, Shard
from shardwright.program.nodes import module_path, op_name, source_line
from shardwright.rules.call import num_bytes


@dataclass(frozen=True, slots=True)
class GatheredWeight:
    """A weight, or what is made of weights alone, that a collective brings together at every call.

    ``weights``: the parameters, buffers and constants it is made of that are cut. ``num_bytes``: of the whole value.
    ``module``, ``source``: where it is read, and ``reader`` by which operator. ``plan_key``: the entry that cut it.
    """

    weights: tuple[str, ...]
    axis: str
    num_bytes: int
    module: str
    source: str
    reader: str
    plan_key: str = ""

    @property
    def identity(self) -> tuple[object, ...]:
        """What it is, whatever its size: what is gathered along which axis, and where it is read."""
        return self.weights, self.axis, self.module, self.source, self.reader

    def __str__(self) -> str:
        place = f" in {self.module}" if self.module else ""
        return f"{' with '.join(self.weights)} ({self.num_bytes:,} bytes, read by {self.reader}{place})"


def gathered_weights(assignment: Assignment, axis: str, plan_keys: Mapping[str, str]) -> list[GatheredWeight]:
    """Every weight that an assignment brings together, in order of the program. ``plan_keys``: by placeholder."""
    program, steps = assignment.program, assignment.steps.items
    mutated = set(program.mutations().values())
    state = {i.name: str(i.target) for i in program.inputs if i.is_state and i.name not in mutated}
    behind: dict[int, tuple[str, ...]] = {}
    found: dict[tuple[tuple[int, int], Layout], GatheredWeight] = {}
    for step in steps:
        read = any(value[0] in behind for value in step.reads)
        for value, wanted in _brought_together(step, assignment) if read else ():
            names = behind.get(value[0], ())
            cut = [name for name in names if isinstance(assignment.layouts.get(name), Shard)]
            if not cut or (value, wanted) in found:
                continue
            whole = steps[value[0]].vals[value[1]]
            found[value, wanted] = GatheredWeight(
                weights=tuple(state[name] for name in cut),
                axis=axis,
                num_bytes=num_bytes(whole, program.fake_mode),
                module=module_path(step.node),
                source=source_line(step.node),
                reader=f"output {step.output}" if step.kind is StepKind.OUTPUT else op_name(step.node.target),
                plan_key=next((plan_keys[name] for name in cut if name in plan_keys), ""),
            )
        if step.kind is StepKind.INPUT and step.node.name in state:
            behind[step.index] = (step.node.name,)
        elif step.kind in (StepKind.CALL, StepKind.CONSTRAINT) and all(one in behind for one in _read(step)):
            behind[step.index] = tuple(dict.fromkeys(name for one in _read(step) for name in behind[one]))
    return list(found.values())


def _read(step: Step) -> list[int]:
    """The steps whose values a step reads, and not only their dtypes or sizes."""
    return [maker for number, (maker, _) in enumerate(step.reads) if step.reads_values(number)]


def _brought_together(step: Step, assignment: Assignment) -> list[tuple[tuple[int, int], Layout]]:
    """The values that a step reads in another layout than the cut they are made in, and the layout it wants."""
    if step.kind is StepKind.SIZES:
        # An assertion on a weight's dtype has nothing moved.
        return []
    strategy = assignment.strategies[step.index]
    found = []
    for number, (value, wanted) in enumerate(zip(step.reads, strategy.operands if strategy else (), strict=False)):
        maker = assignment.strategies[value[0]]
        made = maker.results[value[1]] if maker is not None else REPLICATE
        if isinstance(made, Shard) and made != wanted and step.reads_values(number):
            found.append((value, wanted))
    return found
