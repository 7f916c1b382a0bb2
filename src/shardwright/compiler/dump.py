"""`Dump`: every stage of a compilation as numbered text files, to be read, compared and sent with a question.

::

    01-program.txt         the program as it was read
    02-tp-pins.txt         what the plan pins on the axis, placeholder by placeholder
    03-tp-steps.txt        the steps of the graph with their rules
    04-tp-assignment.txt   the strategy of every step, and what it costs
                           (04-tp-assignment-at-1.txt: another one, of ranks that an axis before left other sizes)
    05-tp-partitioned.txt  the first rank's program after the axis
    06-merged.txt          collectives along both parts of a split axis as one
    07-arranged.txt        collectives in the order of all ranks, as soon as can be, those sent together side by side
    08-lowered.txt         torch's collectives
    09-dropped.txt         calls that do nothing left out
    10-lean.txt            values waited for where they are first read: the first rank's program as it is exported
    11-counts.txt          after each of these passes: calls, and those among them that communicate

A file of an axis is repeated for every axis of the mesh, in order.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step
from shardwright.compiler.axes import Compiled, CompiledAxis
from shardwright.errors import ShardwrightError
from shardwright.layout.values import check_path
from shardwright.lean.lean import count, passes
from shardwright.lean.options import Lean
from shardwright.lean.schedule import Schedule
from shardwright.plan.pins import Pins
from shardwright.program.format import format_program, format_value
from shardwright.program.nodes import op_name
from shardwright.program.program import Program
from shardwright.rules.rule import Rule, Strategy

_OWN = re.compile(r"\d\d+-.*\.txt")


class Dump:
    """A folder that stages are written to as they come, so that a compilation that fails leaves those before.

    ``path``: None where nothing is to be written. The files of an earlier dump are removed; raises `ShardwrightError`
    where the folder holds anything else.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.folder = None if path is None else _empty_folder(check_path(path, "dump"))
        self.count = 0

    def program(self, program: Program) -> None:
        """Write the program as it was read."""
        if self.folder is not None:
            self._write("program", format_program(program))

    def compiled(self, compiled: Compiled) -> None:
        """Write every axis and, after the last one, the first rank's program."""
        if self.folder is None:
            return
        first = (0,) * len(compiled.axes)
        for depth, one in enumerate(compiled.axes, 1):
            self._write(f"{one.axis}-pins", format_pins(one, compiled.program_after(first[: depth - 1])))
            self._write(f"{one.axis}-steps", format_steps(one.assignment))
            for place, assignment in one.assignments.items():
                if not any(place) or assignment.solution is not one.assignment.solution:
                    at = f"-at-{'-'.join(map(str, place))}" if any(place) else ""
                    self._write(f"{one.axis}-assignment{at}", format_assignment(assignment))
            self._write(f"{one.axis}-partitioned", format_program(compiled.program_after(first[:depth])))
        self._write("merged", format_program(compiled.finished(first)))

    def lean(self, compiled: Compiled, schedule: Schedule, options: Lean) -> None:
        """Write the first rank's program after each pass that makes it lean; the last is as it is exported."""
        if self.folder is None:
            return
        program = compiled.finished((0,) * len(compiled.axes))
        counts = [format_count("merged", program)]
        names = {axis: axis for axis in compiled.mesh.group_names}
        for name, after in passes(program, schedule, names, options):
            self._write(name, format_program(after))
            counts.append(format_count(name, after))
        self._write("counts", "\n".join(counts) + "\n")

    def _write(self, stage: str, text: str) -> None:
        assert self.folder is not None, "callers check it"
        self.count += 1
        name = re.sub(r"[^\w.-]", "_", stage)
        (self.folder / f"{self.count:02}-{name}.txt").write_text(text, encoding="utf-8")


def format_count(name: str, program: Program) -> str:
    """``lowered  12 calls, 2 communicate``."""
    calls, communicate = count(program)
    return f"{name:10}{calls} calls, {communicate} communicate"


def format_pins(one: CompiledAxis, program: Program) -> str:
    """What the plan pins on an axis: one line a placeholder, output or module boundary; everything else is free.

    ``program``: the first rank's, before the axis.
    """
    return "\n".join(_pin_lines(one.request.pins(program), one.request.plan_keys) or ["nothing is pinned"]) + "\n"


def format_steps(assignment: Assignment) -> str:
    """The steps: number, kind, name, value, steps that are read (``%5``, a second result ``%5.1``) and the rule."""
    items = assignment.steps.items
    return "\n".join(_step_line(step, rule, items) for step, rule in zip(items, assignment.rules, strict=True)) + "\n"


def format_assignment(assignment: Assignment) -> str:
    """The strategy of every step, operands → results, then costs, and operators that run whole for want of a rule."""
    lines = [
        f"{_label(step)}  {_format_strategy(strategy)}"
        for step, strategy in zip(assignment.steps.items, assignment.strategies, strict=True)
        if strategy is not None
    ]
    solution = assignment.solution
    lines.append(
        f"collectives {solution.communication_us:.4g} us, work {solution.work_us:.4g} us, gap {solution.gap:.2%}"
    )
    lines += [f"written out  {name}" for name in assignment.expanded]
    lines += [f"whole  {one.node} = {one.op}: {one.reason}" for one in assignment.fallbacks]
    return "\n".join(lines) + "\n"


def _pin_lines(pins: Pins, keys: Mapping[str, str]) -> list[str]:
    boundaries = [(f"{b.side} {'' if b.position is None else b.position}".rstrip(), b) for b in pins.boundaries]
    return [
        *(_state_line(name, pins, keys) for name in pins.state),
        *(f"input {name}  {layout}" for name, layout in pins.inputs.items()),
        *(f"output {position}  {layout}" for position, layout in pins.outputs.items()),
        *(f"{side} of {b.module!r}  {b.layout}  by {b.key!r}" for side, b in boundaries),
        *(f"{name}  may stay whole" for name in sorted(pins.may_stay_whole)),
    ]


def _state_line(name: str, pins: Pins, keys: Mapping[str, str]) -> str:
    free = ", the cut is free" if name in pins.free_cut else ""
    return f"{name}  {pins.state[name]}{free}" + (f"  by {keys[name]!r}" if name in keys else "")


def _step_line(step: Step, rule: Rule | None, steps: Sequence[Step]) -> str:
    reads = ", ".join(f"%{maker}" + (f".{n}" if len(steps[maker].vals) > 1 else "") for maker, n in step.reads)
    values = "  " + ", ".join(map(format_value, step.vals)) if step.vals else ""
    if step.layout is not None:
        return f"{_label(step)}{values} = {reads} as {step.layout}  by {step.key!r}"
    if step.node.op != "call_function":
        return f"{_label(step)}{values}" + (f"  {reads}" if reads else "")
    known = f"  {rule}" if rule is not None else "  no rule" if values else ""
    return f"{_label(step)}{values} = {op_name(step.node.target)}({reads}){known}"


def _label(step: Step) -> str:
    what = f"output {step.output}" if step.output >= 0 else step.node.name
    return f"{step.index:4}  {step.kind:10}  {what}"


def _format_strategy(strategy: Strategy) -> str:
    sides = [", ".join(map(str, side)) or "-" for side in (strategy.operands, strategy.results)]
    cuts = " and ".join(name for name, _ in strategy.cuts)
    return f"{sides[0]} -> {sides[1]}" + (f"  cuts {cuts}" if cuts else "")


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(folder.iterdir())
        other = [path.name for path in held if not _OWN.fullmatch(path.name)]
        if other:
            raise ShardwrightError(
                f"dump={str(folder)!r} is a folder that holds other files: {', '.join(other[:3])}\n"
                "  try: a folder of its own; it is made if it is absent"
            )
        for path in held:
            path.unlink()
    except OSError as error:
        raise ShardwrightError(f"dump={str(folder)!r} cannot be written: {error}") from error
    return folder
