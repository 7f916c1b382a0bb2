"""`verify`: run all ranks in one process, compare with the original, and find the first node that is wrong.

When outputs differ, intermediate values are compared too: each rank's local values are put together from their
layouts and held against the original's. Nodes are sampled, the first wrong sample narrows the range, and so on, so
only a few values are kept at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from shardwright.compiler.sharded import ShardedProgram
from shardwright.errors import InputError
from shardwright.layout.layout import Layout, Partial
from shardwright.layout.mesh import Mesh
from shardwright.layout.pieces import join_shards
from shardwright.layout.values import check_mapping, check_number
from shardwright.program.inputs import bind_inputs
from shardwright.program.nodes import module_path, source_line
from shardwright.program.program import Program
from shardwright.program.read import read
from shardwright.program.simulate import Simulation, run_graph

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
    """One output on one rank: the largest difference over the largest wanted value."""

    name: str
    rank: int
    error: float
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """What `verify` found. ``ok``: every output of every rank is within ``tolerance``."""

    ok: bool
    tolerance: float
    outputs: tuple[OutputCheck, ...]
    first_wrong: WrongNode | None = None
    buffers: tuple[OutputCheck, ...] = field(default=())

    @property
    def max_error(self) -> float:
        """The largest relative error over all outputs and mutated buffers."""
        return max((check.error for check in (*self.outputs, *self.buffers)), default=0.0)

    def __str__(self) -> str:
        if self.ok:
            return f"equal on every rank: largest relative error {self.max_error:.2e} (allowed {self.tolerance:.0e})"
        bad = [c for c in (*self.outputs, *self.buffers) if c.problem or not c.error <= self.tolerance]
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
        return "\n".join(["DIFFERENT from the original", *lines])


def verify(
    sharded: ShardedProgram,
    original: ExportedProgram,
    example_inputs: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    tolerance: float | None = None,
) -> Report:
    """Simulate every rank of ``sharded`` on whole inputs and compare outputs and mutated buffers with ``original``.

    ``example_inputs``: positional inputs of the original, whole; ``kwargs``: keyword inputs. ``tolerance``: largest
    difference over the largest value of an output; absent: 1e-4 for float32, 1e-9 for float64, 3e-2 for smaller
    floats. Integers and booleans must be equal. Raises `InputError` when the inputs do not fit.
    """
    if not isinstance(example_inputs, (tuple, list)):
        raise InputError(f"example inputs are a tuple of positional inputs, got {type(example_inputs).__name__}")
    if tolerance is not None:
        check_number(tolerance, "tolerance", least=0)
    program = read(original)
    named = dict(check_mapping(kwargs or {}, "kwargs", "{'x': tensor}", error=InputError))
    inputs = bind_inputs(program, tuple(example_inputs), named, sharded.signature)
    state = {name: weight.tensor.detach() for name, weight in program.weights.items()}
    # Ranks draw what the original drew: all streams begin in one state.
    drawn = torch.get_rng_state()
    with torch.no_grad():
        wanted = run_graph(program, state, inputs, None)
    torch.set_rng_state(drawn)
    allowed = tolerance if tolerance is not None else _tolerance(wanted)
    simulation = sharded.simulation()
    got = simulation.run_raw(sharded.rank_inputs(inputs))
    checks = list(_compare_outputs(program, sharded, simulation, wanted, got))
    outputs = tuple(check for check, is_buffer in checks if not is_buffer)
    buffers = tuple(check for check, is_buffer in checks if is_buffer)
    ok = all(not c.problem and c.error <= allowed for c in (*outputs, *buffers))
    first = None if ok else _first_wrong(program, state, inputs, sharded, allowed)
    return Report(ok, allowed, outputs, first, buffers)


def join_on_mesh(values: Sequence[torch.Tensor], layouts: Sequence[Layout], mesh: Mesh) -> torch.Tensor:
    """The whole tensor from every rank's value, given its layout on each mesh axis."""
    sizes = [size for _, size in mesh]
    for layout, size in zip(reversed(layouts), reversed(sizes), strict=True):
        values = [join_shards(values[start : start + size], layout) for start in range(0, len(values), size)]
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
    finite = wanted[wanted.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 1.0
    return difference.max().item() / (scale or 1.0)


def _tolerance(values: Sequence[Any]) -> float:
    dtypes = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
    if dtypes & {torch.float16, torch.bfloat16}:
        return 3e-2
    return 1e-9 if dtypes == {torch.float64} else 1e-4


def _compare_outputs(
    program: Program,
    sharded: ShardedProgram,
    simulation: Simulation,
    wanted: Sequence[Any],
    got: Sequence[Sequence[Any]],
) -> Iterator[tuple[OutputCheck, bool]]:
    for position, (output, whole) in enumerate(zip(program.outputs, wanted, strict=True)):
        values = [rank[position] for rank in got]
        is_buffer = output.kind.name != "USER_OUTPUT"
        name = str(output.target) if is_buffer else f"output {output.name or position}"
        if not isinstance(whole, torch.Tensor):
            for rank, value in enumerate(values):
                yield OutputCheck(name, rank, 0.0, "" if value == whole else f"is {value!r}, not {whole!r}"), is_buffer
            continue
        layouts = _output_layouts(sharded, simulation, position)
        joined = [join_on_mesh(values, layouts, sharded.mesh)] if _is_cut(layouts) else values
        for rank, value in enumerate(joined):
            if value.shape != whole.shape or value.dtype != whole.dtype:
                problem = f"has shape {tuple(value.shape)} and dtype {value.dtype}"
                yield (
                    OutputCheck(name, rank, float("inf"), f"{problem}, not {tuple(whole.shape)} {whole.dtype}"),
                    is_buffer,
                )
            else:
                yield OutputCheck(name, rank, relative_error(value, whole)), is_buffer


def _output_layouts(sharded: ShardedProgram, simulation: Simulation, position: int) -> tuple[Layout, ...]:
    found = []
    for assignment in sharded.assignments.values():
        step = next((s for s in assignment.steps.items if s.kind == "output" and s.output == position), None)
        strategy = assignment.strategies[step.index] if step is not None else None
        assert strategy is not None, f"output {position} has no layout"
        found.append(strategy.operands[0])
    return tuple(found)


def _is_cut(layouts: Sequence[Layout]) -> bool:
    return any(repr(layout) != "Replicate()" for layout in layouts)


def _first_wrong(
    program: Program,
    state: Mapping[str, torch.Tensor],
    inputs: Sequence[Any],
    sharded: ShardedProgram,
    tolerance: float,
) -> WrongNode | None:
    simulation = sharded.simulation()
    layouts: dict[str, tuple[Layout, ...]] = {}
    local_names: list[dict[str, str]] = []
    for one in simulation.programs:
        names: dict[str, str] = {}
        for local, (origin, held) in one.origins.items():
            if origin not in names:
                names[origin] = local
                layouts.setdefault(origin, held)
        local_names.append({local: origin for origin, local in names.items()})
    # Rows that each rank holds for its own experts only make no whole.
    joins = {name for name, held in layouts.items() if not any(isinstance(o, Partial) and o.is_owned for o in held)}
    order = [n for n in program.graph.nodes if n.name in joins and n.op == "call_function"]
    low, high, wrong = 0, len(order), None
    while low < high:
        step = max((high - low) // _SAMPLES, 1)
        picked = order[low:high:step]
        errors = _errors(program, state, inputs, sharded, picked, layouts, local_names)
        bad = next((n for n in picked if not errors.get(n.name, 0.0) <= tolerance), None)
        if bad is None:
            low = low + (len(picked) - 1) * step + 1
            continue
        wrong = WrongNode(
            node=bad.name,
            op=str(bad.target),
            module=module_path(bad),
            source=source_line(bad),
            error=errors[bad.name],
            layouts=tuple(map(str, layouts[bad.name])),
        )
        high = order.index(bad)
        low = max(low, high - step + 1)
        if step == 1:
            break
    return wrong


def _errors(
    program: Program,
    state: Mapping[str, torch.Tensor],
    inputs: Sequence[Any],
    sharded: ShardedProgram,
    picked: Sequence[fx.Node],
    layouts: Mapping[str, tuple[Layout, ...]],
    local_names: Sequence[Mapping[str, str]],
) -> dict[str, float]:
    """The relative error of each picked node's joined value."""
    chosen = {node.name for node in picked}
    kept: list[dict[str, torch.Tensor]] = [{} for _ in local_names]

    def keep(rank: int, node: fx.Node, value: Any) -> None:
        origin = local_names[rank].get(node.name)
        if origin in chosen and isinstance(value, torch.Tensor):
            kept[rank][str(origin)] = value

    errors: dict[str, float] = {}

    def hold_against(_: int, node: fx.Node, value: Any) -> None:
        if node.name in chosen and isinstance(value, torch.Tensor):
            pieces = [values.pop(node.name) for values in kept if node.name in values]
            if len(pieces) != len(kept):
                return
            try:
                joined = join_on_mesh(pieces, layouts[node.name], sharded.mesh)
            except RuntimeError:
                errors[node.name] = float("inf")
                return
            same = joined.shape == value.shape
            errors[node.name] = relative_error(joined, value) if same else float("inf")

    drawn = torch.get_rng_state()
    sharded.simulation().run_raw(sharded.rank_inputs(inputs), watch=keep)
    torch.set_rng_state(drawn)
    with torch.no_grad():
        run_graph(program, state, inputs, hold_against)
    return errors
