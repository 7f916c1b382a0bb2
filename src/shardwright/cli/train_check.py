"""``shardwright train-check``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.cli.console import out
from shardwright.cli.models import is_checkpoint, is_package, load_model
from shardwright.cli.options import PLANS, AsJson, Dump, Hardware, Lean
from shardwright.cli.progress import spinner
from shardwright.errors import Finding, InputError, ProgramError, ShardwrightError, near_misses, raise_findings

SHOWN = 12
"""Rows of the table; JSON has all."""


def train_check(
    model: Annotated[
        Path, typer.Argument(help="A program for training (.pt2), what export_training made; or a package of one.")
    ],
    tp: Annotated[int | None, typer.Option("--tp", min=1, help="The number of ranks of a part; default: 2.")] = None,
    dp: Annotated[int, typer.Option(min=1, help="The number of parts of the batch, each on ranks of its own.")] = 1,
    plan: Annotated[str | None, typer.Option("--plan", help=f"{PLANS} of names to styles; default: 'auto'.")] = None,
    cut: Annotated[
        list[str] | None, typer.Option(help="An input that --dp cuts along dim 0; may be repeated; default: every one.")
    ] = None,
    inputs: Annotated[Path | None, typer.Option("--inputs", "-i", help="A safetensors file of inputs by name.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Allowed error over the largest value.")] = None,
    hardware: Hardware = None,
    dump: Dump = None,
    lean: Lean = True,
    as_json: AsJson = False,
) -> None:
    """Are the loss and every gradient of a training step those of one process?

    A program is sharded and all ranks run in this process; where a gradient is wrong, the first node whose value
    differs is named: its operator, module and line. A package runs on real ranks, each given the whole --inputs.
    """
    from shardwright.layout.values import check_number

    if tolerance is not None:
        check_number(tolerance, "--tolerance", least=0)
    if is_package(model):
        made = {"--tp": tp, "--plan": plan, "--cut": cut, "--hardware": hardware, "--dump": dump}
        made |= {"--dp": dp if dp > 1 else None, "--no-lean": None if lean else True}
        if given := [name for name, value in made.items() if value is not None]:
            raise ShardwrightError(f"{', '.join(given)}: for programs, which are sharded here; {model} is a package")
        report = _of_package(model, inputs, tolerance)
    elif is_checkpoint(model):
        raise ProgramError(f"{model} is a folder or a checkpoint; {_NEEDS}")
    elif cut and dp == 1:
        raise ShardwrightError("--cut names inputs for --dp to cut, and there is one part of the batch\n  try: --dp 2")
    else:
        how = {"plan": {"tp": plan or "auto"}, "cost": hardware, "dump": dump, "lean": lean}
        report = _of_program(model, {"dp": dp, "tp": tp or 2}, cut, inputs, tolerance, how)
    _show(report, as_json=as_json)
    if not report.ok:
        raise typer.Exit(1)


def _of_program(
    model: Path, mesh: dict[str, int], cut: Any, inputs: Path | None, tolerance: float | None, how: dict[str, Any]
) -> Any:
    import shardwright
    from shardwright.run.tensor_files import example_inputs

    with spinner("checking gradients"):
        exported = load_model(model)
        if not _has_gradients(exported):
            raise ProgramError(f"{model} computes no gradients: it was exported for inference; {_NEEDS}")
        parts = _parts(exported, cut) if mesh["dp"] > 1 else None
        mesh = mesh if parts else {"tp": mesh["tp"]}
        sharded = shardwright.shard(exported, mesh=mesh, inputs=parts, **how)
        args, kwargs = example_inputs(exported, inputs)
        return shardwright.verify(sharded, exported, args, kwargs, tolerance=tolerance)


def _of_package(package: Path, inputs: Path | None, tolerance: float | None) -> Any:
    from shardwright.compiler.train_check import check_gradients
    from shardwright.package.checked_graph import checked_graph
    from shardwright.package.manifest import read_manifest
    from shardwright.run.tensor_files import named_inputs, read_inputs

    if inputs is None:
        raise InputError(f"{package} carries no example inputs\n  try: --inputs FILE.safetensors")
    manifest = read_manifest(package)
    found = read_inputs(inputs, manifest.input_names(), manifest.constants())
    with spinner(f"running a step on {manifest.num_ranks} ranks"):
        args, kwargs = named_inputs(checked_graph(package, manifest, manifest.original), found)
        return check_gradients(package, args, kwargs, tolerance=tolerance)


_NEEDS = (
    "a check of training needs a program for training\n"
    "  try: torch.export.save(shardwright.export_training(model, args, loss=loss), 'step.pt2')"
)


def _has_gradients(exported: Any) -> bool:
    from shardwright.program.program import GRADIENT_KINDS

    return any(spec.kind in GRADIENT_KINDS for spec in exported.graph_signature.output_specs)


def _parts(exported: Any, cut: Sequence[str] | None) -> dict[str, Any]:
    """The layouts of inputs on ``dp``: those named, or every tensor that has a dim, cut along dim 0."""
    import torch

    from shardwright.layout.layout import Shard
    from shardwright.program.read import user_input_names

    values = {node.name: node.meta.get("val") for node in exported.graph.find_nodes(op="placeholder")}
    names = list(user_input_names(exported))
    fitting = [name for name in names if isinstance(values.get(name), torch.Tensor) and values[name].dim()]
    findings = [
        Finding(f"--cut {name!r} is not an input with a dim", remedies=tuple(map(repr, near_misses(name, fitting))))
        for name in cut or ()
        if name not in fitting
    ]
    raise_findings(InputError, findings, summary="a batch cannot be cut so")
    return {"dp": dict.fromkeys(cut or fitting, Shard(0))}


def _show(report: Any, *, as_json: bool) -> None:
    from shardwright.report.tables import Table, print_json

    worst: dict[str, float] = {}
    for check in (*report.outputs, *report.gradients, *report.buffers):
        worst[check.name] = max(worst.get(check.name, 0.0), check.error)
    ordered = sorted(worst.items(), key=lambda item: (-item[1], item[0]))
    rows = [(name, f"{error:.1e}") for name, error in ordered]
    table = Table("Errors", ("value", "relative error"), rows, frozenset({"relative error"}))
    if as_json:
        print_json([table], ok=report.ok, max_error=report.max_error, tolerance=report.tolerance, report=str(report))
        return
    table.show(out, limit=SHOWN)
    out.print(str(report), style="green" if report.ok else "red", markup=False)
