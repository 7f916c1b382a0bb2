"""`verify`: run all ranks in one process, compare with the original, and find the first node that is wrong.

When outputs differ, intermediate values are compared too: each rank's local values are put together from their
layouts and compared with the original's. Of the nodes that wrong outputs are computed of, some are sampled: the first
wrong one leaves those that it is computed of, a right one clears those, and so on, so only a few values are kept at a
time. A gradient that alone is wrong is found so, wherever in the program it is computed. What rounding alone explains
is not a difference (`compiler.rounding`); that is worked out only where an error exceeds the tolerance.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import StepKind
from shardwright.compiler.rounding import rounding_floors
from shardwright.compiler.sharded import ShardedProgram
from shardwright.compiler.tolerance import excusable_in, hint_for, tolerance_of
from shardwright.errors import InputError, ShardwrightError
from shardwright.layout.layout import REPLICATE, Layout, Owned
from shardwright.layout.mesh import Mesh
from shardwright.layout.pieces import join_shards
from shardwright.layout.values import check_mapping, check_number
from shardwright.program.inputs import bind_inputs
from shardwright.program.nodes import module_path, source_line
from shardwright.program.program import GRADIENT_KINDS, RETURNED, Output, Program
from shardwright.program.read import read
from shardwright.program.simulate import Watch, run_graph

_SAMPLES = 64
"""Values compared in one run while looking for the first wrong node."""


@dataclass(frozen=True, slots=True)
class WrongNode:
    """The first node whose joined value differs from the original's."""

    node: str
    op: str
    module: str
    source: str
    error: float
    layouts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """One output on one rank: the largest difference over the largest wanted value.

    ``rounding``: how much of that rounding alone explains; not looked for, and 0, where the tolerance was kept.
    """

    name: str
    rank: int
    error: float
    problem: str = ""
    rounding: float = 0.0

    def is_within(self, tolerance: float) -> bool:
        """Whether the output is the original's, but for rounding."""
        return not self.problem and self.error <= max(tolerance, self.rounding)

    def excuse(self) -> str:
        """The note on an error that rounding explains."""
        return (
            f"relative error {self.error:.2e} is rounding: larger values cancel here, are quantised, or have few "
            f"digits, and rounding them otherwise moves the original by up to {self.rounding:.2e} as well"
        )


@dataclass(frozen=True)
class Report:
    """What `verify` found. ``ok``: every output of every rank is within ``tolerance``, or of what rounding does."""

    ok: bool
    tolerance: float
    outputs: tuple[OutputCheck, ...]
    first_wrong: WrongNode | None = None
    buffers: tuple[OutputCheck, ...] = field(default=())
    gradients: tuple[OutputCheck, ...] = field(default=())
    hint: str = ""

    @property
    def max_error(self) -> float:
        """The largest relative error over all outputs, mutated buffers and gradients but those in `rounded`."""
        rounded = self.rounded
        return max((c.error for c in self._checks if c not in rounded), default=0.0)

    @property
    def _checks(self) -> tuple[OutputCheck, ...]:
        return (*self.outputs, *self.buffers, *self.gradients)

    @property
    def rounded(self) -> tuple[OutputCheck, ...]:
        """What is over the tolerance, and yet no more than rounding does to the original as well."""
        return tuple(c for c in self._checks if c.error > self.tolerance and c.is_within(self.tolerance))

    def __str__(self) -> str:
        if self.ok:
            equal = f"equal on every rank: largest relative error {self.max_error:.2e} (allowed {self.tolerance:.0e})"
            worst = {one.name: one for one in sorted(self.rounded, key=lambda one: one.error)}
            return "\n".join([equal, *(f"{name}: {one.excuse()}" for name, one in sorted(worst.items())[:6])])
        bad = [c for c in self._checks if not c.is_within(self.tolerance)]
        lines = [
            f"{c.name} on rank {c.rank}: {c.problem or f'relative error {c.error:.2e}, allowed {self.tolerance:.0e}'}"
            for c in bad[:6]
        ]
        if self.first_wrong is not None:
            wrong = self.first_wrong
            lines.append(
                f"first wrong node: {wrong.node} ({wrong.op}) in {wrong.module!r}, {wrong.source or 'no source line'}, "
                f"held as {', '.join(wrong.layouts)}, relative error {wrong.error:.2e}"
            )
        return "\n".join(["DIFFERENT from the original", *lines, *([self.hint] if self.hint else [])])


def verify(
    sharded: ShardedProgram,
    original: ExportedProgram,
    example_inputs: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    tolerance: float | None = None,
) -> Report:
    """Simulate every rank of ``sharded`` on whole inputs and compare outputs and mutated buffers with ``original``.

    Of a joint program (see `export_training`): the loss and every gradient, put together from its pieces.

    ``example_inputs``: positional inputs of the original, whole; ``kwargs``: keyword inputs. ``tolerance``: largest
    difference over the largest value of an output; absent: 1e-4 for float32, 1e-9 for float64, 3e-2 for smaller
    floats. An output that is nearly 0 because larger values cancel, or that is computed of quantised values or of some
    with fewer digits (`torch.autocast`), may differ by what rounding does to those (`Report.rounded`), unless
    ``tolerance`` is 0. Integers and booleans must be equal. Raises `InputError` when the inputs do not fit.
    """
    if not isinstance(sharded, ShardedProgram):
        raise ShardwrightError(f"verify takes what `shard` returned, got {type(sharded).__name__}")
    if not isinstance(example_inputs, (tuple, list)):
        raise InputError(f"example inputs are a tuple of positional inputs, got {type(example_inputs).__name__}")
    if tolerance is not None:
        check_number(tolerance, "tolerance", least=0)
    program = read(original)
    named = dict(check_mapping(kwargs or {}, "kwargs", "{'x': tensor}", error=InputError))
    inputs = bind_inputs(program, tuple(example_inputs), named, sharded.signature)
    original_run = _Original(program, tuple(inputs), torch.get_rng_state())
    wanted = original_run()
    allowed = tolerance if tolerance is not None else tolerance_of(wanted)
    original_run = replace(original_run, excusable=excusable_in(program, wanted, tolerance))
    simulation = sharded.simulation()
    got = simulation.run_raw(sharded.rank_inputs(inputs))
    checks = list(_compare_outputs(program, sharded, wanted, got))
    if not all(check.is_within(allowed) for _, check in checks):
        checks = _with_rounding(checks, original_run, wanted, allowed)
    found: dict[str, list[OutputCheck]] = {"outputs": [], "gradients": [], "buffers": []}
    for position, check in checks:
        kind = program.outputs[position].kind
        found["outputs" if kind in RETURNED else "gradients" if kind in GRADIENT_KINDS else "buffers"].append(check)
    ok = all(check.is_within(allowed) for _, check in checks)
    values = program.output_values()
    wrong = {values[position] for position, check in checks if not check.is_within(allowed)}
    nodes = [value for value in dict.fromkeys(values) if value in wrong and isinstance(value, fx.Node)]
    first = None if ok else _first_wrong(original_run, sharded, allowed, nodes)
    hint = "" if ok else hint_for(original_run.excusable)
    return Report(ok, allowed, first_wrong=first, hint=hint, **{what: tuple(one) for what, one in found.items()})


@dataclass(frozen=True)
class _Original:
    """The original on whole inputs; every run draws the same random numbers. ``excusable``: by what rounding does."""

    program: Program
    inputs: tuple[Any, ...]
    drawn: torch.Tensor
    excusable: float = 0.0

    def __call__(self, watch: Watch | None = None) -> list[Any]:
        """All flat outputs. The random numbers begin anew, and begin anew for whoever draws next."""
        state = {name: weight.tensor.detach() for name, weight in self.program.weights.items()}
        torch.set_rng_state(self.drawn)
        try:
            with torch.no_grad():
                return run_graph(self.program, state, self.inputs, watch)
        finally:
            torch.set_rng_state(self.drawn)

    def floors(self, nodes: Collection[fx.Node]) -> dict[str, float]:
        """The absolute error of each of these nodes that rounding explains."""
        return rounding_floors(self, nodes, self.excusable) if nodes and self.excusable > 0 else {}


def join_on_mesh(values: Sequence[torch.Tensor], layouts: Sequence[Sequence[Layout]], mesh: Mesh) -> torch.Tensor:
    """The whole tensor from every rank's value, given its layout on each mesh axis, as each rank sees it."""
    for depth, (_, size) in reversed(list(enumerate(mesh))):
        starts = range(0, len(values), size)
        values = [join_shards(values[start : start + size], layouts[start][depth]) for start in starts]
        layouts = [layouts[start] for start in starts]
    return values[0]


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference over the largest wanted value; infinite where one is not a number and the other is."""
    if wanted.numel() == 0:
        return 0.0
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return 0.0 if torch.equal(got, wanted) else float("inf")
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    got, wanted = got.to(wide), wanted.to(wide)
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    difference = torch.where(same, torch.zeros_like(got), got - wanted).abs()
    if not bool(difference.isfinite().all()):
        return float("inf")
    return difference.max().item() / scale_of(wanted)


def scale_of(wanted: torch.Tensor) -> float:
    """The largest finite value; 1 where all are 0 and for dtypes without fractions."""
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return 1.0
    finite = wanted[wanted.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 1.0
    return largest or 1.0


def _compare_outputs(
    program: Program,
    sharded: ShardedProgram,
    wanted: Sequence[Any],
    got: Sequence[Sequence[Any]],
) -> Iterator[tuple[int, OutputCheck]]:
    """A check of every output on every rank that holds it whole, with the output's position."""
    for position, (output, whole) in enumerate(zip(program.outputs, wanted, strict=True)):
        values = [rank[position] for rank in got]
        name = _name_of(output, position)
        if not isinstance(whole, torch.Tensor):
            for rank, value in enumerate(values):
                yield position, OutputCheck(name, rank, 0.0, "" if value == whole else f"is {value!r}, not {whole!r}")
            continue
        layouts = _output_layouts(sharded, position)
        joined = [join_on_mesh(values, layouts, sharded.mesh)] if _is_cut(layouts) else values
        for rank, value in enumerate(joined):
            if value.shape != whole.shape or value.dtype != whole.dtype:
                problem = f"has shape {tuple(value.shape)} and dtype {value.dtype}"
                problem += f", not {tuple(whole.shape)} {whole.dtype}"
                yield position, OutputCheck(name, rank, float("inf"), problem)
            else:
                yield position, OutputCheck(name, rank, relative_error(value, whole))


def _name_of(output: Output, position: int) -> str:
    if output.kind in GRADIENT_KINDS:
        return f"gradient of {output.target}"
    return f"output {output.name or position}" if output.kind in RETURNED else str(output.target)


def _with_rounding(
    checks: Sequence[tuple[int, OutputCheck]], original: _Original, wanted: Sequence[Any], tolerance: float
) -> list[tuple[int, OutputCheck]]:
    """The checks, those over the tolerance with what rounding explains."""
    values = original.program.output_values()
    over = {
        position: values[position]
        for position, check in checks
        if check.error > tolerance and math.isfinite(check.error) and isinstance(values[position], fx.Node)
    }
    floors = original.floors(over.values())
    return [
        (position, replace(check, rounding=floors.get(over[position].name, 0.0) / scale_of(wanted[position])))
        if position in over
        else (position, check)
        for position, check in checks
    ]


def _output_layouts(sharded: ShardedProgram, position: int) -> list[list[Layout]]:
    """The layout of an output on each mesh axis, as each rank sees it."""
    compiled = sharded.compiled
    by_axis = [
        {kind: _output_layout(assignment, position) for kind, assignment in one.assignments.items()}
        for one in compiled.axes
    ]
    kinds = [compiled.kind(place) for place in product(*(range(size) for _, size in sharded.mesh))]
    return [[layouts[kind[:depth]] for depth, layouts in enumerate(by_axis)] for kind in kinds]


def _output_layout(assignment: Assignment, position: int) -> Layout:
    step = next((s for s in assignment.steps.items if s.kind is StepKind.OUTPUT and s.output == position), None)
    strategy = assignment.strategies[step.index] if step is not None else None
    assert strategy is not None, f"output {position} has no layout"
    return strategy.operands[0]


def _is_cut(layouts: Sequence[Sequence[Layout]]) -> bool:
    return any(layout != REPLICATE for one in layouts for layout in one)


def _first_wrong(
    original: _Original, sharded: ShardedProgram, tolerance: float, outputs: Sequence[fx.Node]
) -> WrongNode | None:
    """The first wrong node that one of the wrong ``outputs`` is computed of."""
    simulation = sharded.simulation()
    layouts: dict[str, list[tuple[Layout, ...]]] = {}
    local_names: list[dict[str, str]] = []
    for one in simulation.programs:
        names: dict[str, str] = {}
        for local, (origin, held) in one.origins.items():
            if origin not in names:
                names[origin] = local
                layouts.setdefault(origin, []).append(held)
        local_names.append({local: origin for origin, local in names.items()})
    joins = {name for name, held in layouts.items() if _makes_a_whole(held, len(local_names))}
    order = [n for n in original.program.graph.nodes if n.name in joins and n.op == "call_function"]
    suspects, wrong = _upstream(outputs), None
    while left := [node for node in order if node in suspects]:
        picked = left[:: max(len(left) // _SAMPLES, 1)]
        errors = _errors(original, sharded, picked, layouts, local_names, tolerance)
        bad = next((n for n in picked if not errors.get(n.name, 0.0) <= tolerance), None)
        if bad is not None:
            wrong = WrongNode(
                node=bad.name,
                op=str(bad.target),
                module=module_path(bad),
                source=source_line(bad),
                error=errors[bad.name],
                layouts=tuple(map(str, layouts[bad.name][0])),
            )
            suspects &= _upstream([bad]) - {bad}
        # What a right value is computed of is taken to be right.
        suspects -= _upstream([n for n in picked if errors.get(n.name, math.inf) <= tolerance])
        suspects -= {n for n in picked if n.name not in errors}
    return wrong


def _upstream(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """These nodes and all that they are computed of."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _makes_a_whole(held: Sequence[Sequence[Layout]], num_ranks: int) -> bool:
    """Whether all ranks hold a value: rows that each rank holds for its own experts only make no whole."""
    return len(held) == num_ranks and not any(isinstance(one, Owned) for layouts in held for one in layouts)


def _errors(
    original: _Original,
    sharded: ShardedProgram,
    picked: Sequence[fx.Node],
    layouts: Mapping[str, Sequence[Sequence[Layout]]],
    local_names: Sequence[Mapping[str, str]],
    tolerance: float,
) -> dict[str, float]:
    """The relative error of each picked node's joined value; 0 where rounding explains it."""
    chosen = {node.name for node in picked}
    kept: list[dict[str, torch.Tensor]] = [{} for _ in local_names]

    def keep(rank: int, node: fx.Node, value: Any) -> Any:
        origin = local_names[rank].get(node.name)
        if origin in chosen and isinstance(value, torch.Tensor):
            kept[rank][str(origin)] = value
        return value

    errors: dict[str, float] = {}
    scales: dict[str, float] = {}

    def hold_against(_: int, node: fx.Node, value: Any) -> Any:
        if node.name in chosen and isinstance(value, torch.Tensor):
            pieces = [values.pop(node.name) for values in kept if node.name in values]
            if len(pieces) == len(kept):
                errors[node.name] = _joined_error(pieces, layouts[node.name], sharded.mesh, value)
                scales[node.name] = scale_of(value)
        return value

    sharded.simulation().run_raw(sharded.rank_inputs(original.inputs), watch=keep)
    original(hold_against)
    over = [n for n in picked if tolerance < errors.get(n.name, 0.0) < math.inf]
    floors = original.floors(over)
    return {n: 0.0 if error * scales[n] <= floors.get(n, 0.0) else error for n, error in errors.items()}


def _joined_error(
    pieces: Sequence[torch.Tensor], layouts: Sequence[Sequence[Layout]], mesh: Mesh, whole: torch.Tensor
) -> float:
    try:
        joined = join_on_mesh(pieces, layouts, mesh)
    except RuntimeError:
        # Pieces that do not fit together are as wrong as can be.
        return math.inf
    return relative_error(joined, whole) if joined.shape == whole.shape else math.inf
