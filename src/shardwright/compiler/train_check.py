"""`check_gradients`: a step of a package for training on real ranks, against the unsharded program that it keeps."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import fx

from shardwright.compiler.rounding import rounding_floors
from shardwright.compiler.tolerance import excusable_in, hint_for, tolerance_of
from shardwright.compiler.verify import OutputCheck, Report, relative_error, scale_of
from shardwright.errors import PackageError
from shardwright.layout.box import region_of
from shardwright.layout.layout import REPLICATE
from shardwright.layout.pieces import take_shard
from shardwright.package.checked_graph import checked_graph
from shardwright.package.manifest import read_manifest
from shardwright.package.stored import StoredWeights, rank_cuts
from shardwright.program.inputs import bind_inputs
from shardwright.program.program import GRADIENT_KINDS, RETURNED, Output, Program
from shardwright.program.read import read
from shardwright.program.simulate import Watch, run_graph
from shardwright.run.launch import launch
from shardwright.run.load import load

SEED = 7
"""Of the random numbers that one process and all ranks draw."""
_LOSS = "loss"


def check_gradients(
    package: Path, args: Sequence[Any], kwargs: Mapping[str, Any], *, tolerance: float | None = None
) -> Report:
    """Run a step on real ranks of this machine and compare the loss and each rank's piece of every gradient.

    ``args``, ``kwargs``: whole inputs, of which each rank takes what it should. The report names no node: `verify` of
    the program does. Raises `PackageError` for a package that is for inference, and as `launch` does.
    """
    manifest = read_manifest(package)
    program = read(checked_graph(package, manifest, manifest.original))
    if not program.is_joint:
        raise PackageError(f"{package} computes no gradients: it was exported for inference")
    inputs = bind_inputs(program, tuple(args), dict(kwargs), manifest.signature())
    weights = StoredWeights(package, manifest)
    state = {name: weights.read(name) for name in program.weights}

    def run(watch: Watch | None) -> list[Any]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            return run_graph(program, state, inputs, watch)

    found = run(None)
    loss, gradients = _named(program, found)
    allowed = tolerance_of(found) if tolerance is None else tolerance
    excusable = excusable_in(program, found, tolerance)
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder:
        wanted = Path(folder) / "wanted.safetensors"
        save_file({name: value.contiguous().clone() for name, value in {_LOSS: loss, **gradients}.items()}, wanted)
        errors = launch(manifest.num_ranks, _errors_of_rank, str(package.resolve()), str(wanted), inputs)
    over = {name for one in errors.values() for name, error in one.items() if allowed < error < math.inf}
    nodes = {_LOSS if output.kind in RETURNED else str(output.target): value for output, value in _outputs(program)}
    floors = rounding_floors(run, [nodes[name] for name in sorted(over)], excusable) if over and excusable > 0 else {}

    def checks(name: str, whole: torch.Tensor) -> list[OutputCheck]:
        rounding = floors.get(nodes[name].name, 0.0) / scale_of(whole) if name in over else 0.0
        said = _LOSS if name == _LOSS else f"gradient of {name}"
        return [OutputCheck(said, rank, one[name], "", rounding) for rank, one in sorted(errors.items())]

    losses = tuple(checks(_LOSS, loss))
    of_gradients = tuple(check for name, whole in gradients.items() for check in checks(name, whole))
    ok = all(one.is_within(allowed) for one in (*losses, *of_gradients))
    return Report(ok, allowed, losses, gradients=of_gradients, hint="" if ok else hint_for(excusable))


def _outputs(program: Program) -> Iterator[tuple[Output, fx.Node]]:
    """The outputs that are the loss or a gradient, and the nodes that compute them."""
    for output, value in zip(program.outputs, program.output_values(), strict=True):
        if output.kind in GRADIENT_KINDS or output.kind in RETURNED:
            assert isinstance(value, fx.Node), "losses and gradients are computed"
            yield output, value


def _named(program: Program, found: Sequence[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, and the gradients by the names of their parameters."""
    values = list(zip(program.outputs, found, strict=True))
    gradients = {str(output.target): value for output, value in values if output.kind in GRADIENT_KINDS}
    return next(value for output, value in values if output.kind in RETURNED), gradients


def _errors_of_rank(package: str, wanted: str, inputs: Sequence[Any]) -> dict[str, float]:
    """What one rank does: a step, and the error of the loss and of its piece of every gradient."""
    torch.manual_seed(SEED)
    step: Any = load(package)
    found, whole = {_LOSS: step.run_flat(_own_inputs(step, inputs))}, load_file(wanted)
    found |= {name: p.grad for name, p in step.named_parameters(remove_duplicate=False) if p.grad is not None}
    if missing := sorted(whole.keys() - found):
        raise PackageError(f"rank {step.rank} computes no gradient of {', '.join(missing)}")
    return {name: _error(found[name].cpu(), _piece(step, name, value), value) for name, value in whole.items()}


def _own_inputs(step: Any, inputs: Sequence[Any]) -> list[Any]:
    """What a rank takes of whole inputs."""
    mesh = step.manifest.as_mesh()
    where = mesh.coordinate(mesh.place(step.rank))
    own = list(inputs)
    for position, entry in enumerate(step.manifest.inputs):
        if isinstance(value := own[position], torch.Tensor):
            for axis, layout in rank_cuts(entry, where, mesh, step.folder, value.shape):
                if layout != REPLICATE:
                    # Dense, as a rank's program is written for; a part of a whole has gaps.
                    value = take_shard(value, layout, where[axis]).clone()
            own[position] = value
    return own


def _piece(step: Any, name: str, whole: torch.Tensor) -> torch.Tensor:
    """What a rank should hold of a gradient: what it holds of the parameter."""
    if name == _LOSS:
        return whole
    mesh = step.manifest.as_mesh()
    where = mesh.coordinate(mesh.place(step.rank))
    entry = next(one for one in step.manifest.tensors if one.name == name)
    cuts = rank_cuts(entry, where, mesh, step.folder)
    region = region_of(entry.shape, [(layout, where[axis]) for axis, layout in cuts])
    assert region is not None, "a parameter that is trained is no part of a sum"
    for dim, spans in enumerate(region.spans):
        whole = whole.index_select(dim, torch.cat([torch.arange(*span) for span in spans] or [torch.arange(0)]))
    return whole


def _error(got: torch.Tensor, piece: torch.Tensor, whole: torch.Tensor) -> float:
    """The largest difference of a piece, over the largest value of the whole; infinite for another shape."""
    if got.shape != piece.shape:
        return math.inf
    return relative_error(*(torch.cat([one.flatten(), whole.flatten()]) for one in (got, piece)))
