"""The command line: ``shardwright inspect | plan | shard | verify | run``."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shardwright.errors import PlanWarning, ShardwrightError
from shardwright.report.tables import make_console

app = typer.Typer(
    name="shardwright",
    help="Tensor parallelism for exported PyTorch programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = make_console()
_err = make_console(stderr=True)

Model = Annotated[Path, typer.Argument(help="An exported program, as torch.export.save writes it (.pt2).")]
Ranks = Annotated[int, typer.Option("--tp", min=1, help="The number of ranks.")]
PlanOption = Annotated[str, typer.Option("--plan", help="'auto', 'hf', or a YAML file of names to styles.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def inspect(model: Model, tp: Ranks = 2, as_json: AsJson = False) -> None:
    """Show the module tree with sizes, and what can be cut."""
    from shardwright.report.inspect import module_tree, tensors_table
    from shardwright.report.tables import print_json, spell_bytes

    with _working("reading"):
        program = _read(model)
    table = tensors_table(program, tp)
    total = sum(int(row[4]) for row in table.rows)
    if as_json:
        inputs = [item.name for item in program.user_inputs()]
        print_json([table], inputs=inputs, num_nodes=len(program.graph.nodes), num_bytes=total)
        return
    _out.print(module_tree(program, tp))
    _out.print(f"{len(table.rows)} tensors, {spell_bytes(total)}, {len(program.graph.nodes)} nodes")


@app.command()
def plan(
    model: Model,
    tp: Ranks = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the YAML; default: standard output.")
    ] = None,
    slack: Annotated[float, typer.Option(help="How far weight bytes per rank may exceed the least.")] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Find the automatic plan and write it as YAML."""
    import yaml

    from shardwright.plan.files import spell, write_plan

    with _working("finding a plan"):
        sharded = _shard(model, tp, "auto", slack=slack)
    found = {w.name: w.layouts["tp"] for w in sharded.weights if w.kind in ("parameter", "buffer")}
    if as_json:
        _print(json.dumps({name: spell(layout) for name, layout in found.items()}, indent=2))
    elif output is None:
        _print(
            yaml.safe_dump({n: spell(layout) for n, layout in found.items()}, sort_keys=False, default_flow_style=None)
        )
    else:
        if output.exists():
            raise ShardwrightError(f"{output} exists already\n  try: another name, or remove it first")
        write_plan(output, found, comment=f"The automatic plan for {tp} ranks.")
        _err.print(f"wrote {output}")


@app.command()
def shard(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The package folder to write; it must not exist.")],
    tp: Ranks = 2,
    plan: PlanOption = "auto",
    slack: Annotated[
        float, typer.Option(help="Under 'auto': how far weight bytes per rank may exceed the least.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Shard a program and write a package: graphs, and every rank's weights."""
    from shardwright.report.tables import collectives_table, fallbacks_table, memory_table, print_json, weights_table

    if output.exists():
        raise ShardwrightError(f"the output folder {output} exists already\n  try: another name, or remove it first")
    with _progress("sharding") as step:
        sharded = _shard(model, tp, plan, slack=slack)
        sharded.save(str(output), progress=step)
    tables = [weights_table(sharded), collectives_table(sharded), memory_table(sharded), fallbacks_table(sharded)]
    if as_json:
        print_json(tables, package=str(output))
        return
    for table in tables:
        if table.rows:
            table.show(_out, limit=40)
    _err.print(f"wrote {output}")


@app.command()
def verify(
    model: Model,
    tp: Ranks = 2,
    plan: PlanOption = "auto",
    inputs: Annotated[Path | None, typer.Option("--inputs", "-i", help="A safetensors file of inputs by name.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Allowed error over the largest value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run all ranks in this process and compare with the original."""
    import shardwright
    from shardwright.runtime.inputs import example_inputs

    with _working("verifying"):
        exported = _load(model)
        sharded = shardwright.shard(exported, mesh=tp, plan=plan)
        args, kwargs = example_inputs(exported, inputs)
        report = shardwright.verify(sharded, exported, args, kwargs, tolerance=tolerance)
    if as_json:
        _print(json.dumps({"ok": report.ok, "max_error": report.max_error, "report": str(report)}))
    else:
        _out.print(str(report), style="green" if report.ok else "red")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def run(
    package: Annotated[Path, typer.Argument(help="A package folder.")],
    inputs: Annotated[Path, typer.Option("--inputs", "-i", help="A safetensors file of inputs by name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write outputs to.")],
    as_json: AsJson = False,
) -> None:
    """Launch local ranks on given inputs and write the outputs."""
    from shardwright.package import read_manifest
    from shardwright.package.worker import run_package
    from shardwright.report.tables import Table, print_json
    from shardwright.runtime.inputs import read_inputs
    from shardwright.runtime.launch import launch

    manifest = read_manifest(package)
    read_inputs(inputs, [entry.name for entry in manifest.inputs])
    if output.exists():
        raise ShardwrightError(f"{output} exists already\n  try: another name, or remove it first")
    with _working(f"running on {manifest.num_ranks} ranks"):
        results = launch(
            manifest.num_ranks, run_package, str(package.resolve()), str(inputs.resolve()), str(output.resolve())
        )
    table = Table("Outputs", ("output", "shape", "dtype"), results[0])
    if as_json:
        print_json([table], output=str(output))
    else:
        table.show(_out)
        _err.print(f"wrote {output}")


def main() -> None:
    """The entry point: errors of ours and of the system are one clear message and a non-zero exit."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ShardwrightError as error:
        _err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
    except OSError as error:
        _err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("stopped")
        sys.exit(130)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Ours in one line, without the place in our code that found it; others as Python shows them."""
    if issubclass(category, PlanWarning):
        _err.print(f"warning: {message}", style="yellow", markup=False)
    else:
        _err.print(warnings.formatwarning(message, category, *where[:2]), markup=False, end="")


def _load(model: Path) -> Any:
    from shardwright.program import load_exported

    return load_exported(model)


def _read(model: Path) -> Any:
    from shardwright.program import read

    return read(_load(model))


def _shard(model: Path, num_ranks: int, plan: str, *, slack: float) -> Any:
    import shardwright

    return shardwright.shard(_load(model), mesh=num_ranks, plan=plan, slack=slack)


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A spinner with the time taken, on a terminal."""
    with Progress(SpinnerColumn(), TextColumn(what), TimeElapsedColumn(), console=_err, transient=True) as progress:
        progress.add_task(what)
        yield


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, float], None]]:
    """A bar; the function it gives takes what is being done and the fraction done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda doing, done: progress.update(task, description=doing, completed=done)
