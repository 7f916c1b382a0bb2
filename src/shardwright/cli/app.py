"""The command line: ``shardwright inspect | plan | shard | verify | compile | run | generate | gather | reshard``."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from shardwright.errors import CheckpointWarning, GatherWarning, PlanWarning, ShardwrightError, SolverWarning
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

Model = Annotated[
    Path, typer.Argument(help="An exported program (.pt2), a Hugging Face checkpoint folder or a .gguf file.")
]
Package = Annotated[Path, typer.Argument(help="A package folder.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The package folder to write; it must not exist.")]
Ranks = Annotated[int, typer.Option("--tp", min=1, help="The number of ranks.")]
Effort = Annotated[
    float, typer.Option(help="How long the solver may search, as a multiple of what is usual; counted, not timed.")
]
PlanOption = Annotated[str, typer.Option("--plan", help="'auto', 'hf', or a YAML file of names to styles.")]
Timeout = Annotated[float, typer.Option(help="How long a collective waits for a rank that hangs, in seconds.")]
Backend = Annotated[
    str, typer.Option(help="eager; compile: by torch.compile, on first use; aoti: what `compile` made.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def inspect(
    model: Model,
    tp: Ranks = 2,
    plan: Annotated[
        str | None, typer.Option("--plan", help="Show also what this plan costs: 'auto', 'hf', or a YAML file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the module tree with sizes, and what can be cut; with a plan, its collectives and gathered weights."""
    import shardwright
    from shardwright.program.program import read
    from shardwright.report.tables import collectives_table, gathered_table, memory_table, print_json, spell_bytes
    from shardwright.report.tree import module_tree, tensors_table

    with _working("reading"):
        exported = _load(model)
        program = read(exported)
        sharded = shardwright.shard(exported, mesh=tp, plan=plan) if plan is not None else None
    tables = [] if sharded is None else [collectives_table(sharded), memory_table(sharded), gathered_table(sharded)]
    table = tensors_table(program, tp)
    total = sum(int(row[4]) for row in table.rows)
    if as_json:
        inputs = [item.name for item in program.user_inputs()]
        print_json([table, *tables], inputs=inputs, num_nodes=len(program.graph.nodes), num_bytes=total)
        return
    _out.print(module_tree(program, tp))
    _out.print(f"{len(table.rows)} tensors, {spell_bytes(total)}, {len(program.graph.nodes)} nodes")
    _show_tables(tables)


@app.command()
def plan(
    model: Model,
    tp: Ranks = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the YAML; default: standard output.")
    ] = None,
    slack: Annotated[
        float, typer.Option(help="How far bytes per rank of weights that can be cut may exceed the least.")
    ] = 0.1,
    effort: Effort = 1.0,
    as_json: AsJson = False,
) -> None:
    """Find the automatic plan and write it as YAML."""
    import yaml

    from shardwright.plan.files import spell, write_plan

    with _working("finding a plan"):
        sharded = _shard(model, tp, "auto", slack=slack, effort=effort)
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
    output: Output,
    tp: Ranks = 2,
    plan: PlanOption = "auto",
    slack: Annotated[
        float,
        typer.Option(help="Under 'auto': how far bytes per rank of weights that can be cut may exceed the least."),
    ] = 0.1,
    effort: Effort = 1.0,
    dtype: Annotated[
        str | None, typer.Option(help="Of a checkpoint's weights: float32, bfloat16, float16; default: as they are.")
    ] = None,
    cache_length: Annotated[
        int | None,
        typer.Option(help="Tokens in a decoder's key-value cache; default: at most 2048; 0: no cache."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shard a program or a checkpoint and write a package: graphs, and every rank's weights.

    A checkpoint's weights are streamed slice by slice; an interrupted run that is started again goes on.
    """
    import shardwright
    from shardwright.sources.checkpoint import open_checkpoint

    if output.exists():
        raise ShardwrightError(f"the output folder {output} exists already\n  try: another name, or remove it first")
    with _progress("reading") as step:
        if _is_checkpoint(model):
            opened = open_checkpoint(model, dtype=_dtype(dtype), cache_length=cache_length, progress=step)
            step("sharding", 0, 0)
            sharded = shardwright.shard(opened.exported, mesh=tp, plan=plan, slack=slack, effort=effort)
            opened.save(sharded, output, progress=step)
        elif dtype is not None or cache_length is not None:
            raise ShardwrightError(f"--dtype and --cache-length are for checkpoints; {model} is an exported program")
        else:
            opened = None
            sharded = _shard(model, tp, plan, slack=slack, effort=effort)
            sharded.save(str(output), progress=step)
    _show_package(sharded, output, unused=opened.unused if opened is not None else (), as_json=as_json)


@app.command()
def reshard(
    package: Package,
    output: Output,
    tp: Ranks,
    plan: Annotated[
        str | None, typer.Option("--plan", help="'auto', or a YAML file; default: the plan the package was made with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a package for another number of ranks from a package, without the original model."""
    import shardwright

    with _progress("reading") as step:
        sharded = shardwright.reshard(package, output, mesh=tp, plan=plan, progress=step)
    _show_package(sharded, output, as_json=as_json)


@app.command()
def gather(
    package: Package,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write; it must not exist.")],
) -> None:
    """Write the original state dict, whole, from a package."""
    import shardwright

    with _progress("gathering") as step:
        names = shardwright.gather(package, output, progress=step)
    _err.print(f"wrote {output}: {len(names)} tensors")


@app.command("compile")
def compile_(package: Package) -> None:
    """Compile every rank's program of a package for this machine, with AOTInductor."""
    import shardwright

    with _steps("reading") as step:
        names = shardwright.compile_package(package, progress=step)
    _err.print(f"wrote {package / 'compiled'}: {len(names)} files")


@app.command()
def generate(
    package: Package,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to go on from, or to answer.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to write.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that together reach this.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal tokens.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Go on from the prompt itself, no chat template.")] = False,
    timeout: Timeout = 600.0,
    backend: Backend = "eager",
    as_json: AsJson = False,
) -> None:
    """Launch local ranks and stream the text that a sharded decoder writes."""
    from shardwright.generate.sampling import Sampling
    from shardwright.generate.text import Request, check_generates, write_text
    from shardwright.package.manifest import read_manifest
    from shardwright.run.launch import launch

    manifest = read_manifest(package)
    check_generates(manifest, package)
    sampling = Sampling(temperature, top_p, seed)
    request = Request(prompt, max_tokens, sampling, chat=not raw, stream=not as_json)
    found = launch(manifest.num_ranks, write_text, str(package.resolve()), [request], backend, timeout_s=timeout)[0][0]
    if as_json:
        _print(json.dumps(asdict(found), indent=2))
        return
    rate = f"{(len(found.ids) - 1) / found.decode_s:.1f} tokens/s" if len(found.ids) > 1 else ""
    prefill = f"{len(found.prompt_ids)} prompt tokens in {found.prefill_s:.2f} s"
    _err.print(f"{prefill}, {len(found.ids)} written {rate}", style="dim")


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
    from shardwright.run.files import example_inputs

    if _is_checkpoint(model):
        raise ShardwrightError(
            f"verify runs the program, whose weights a checkpoint folder ({model}) leaves on disk\n"
            "  try: export the loaded model with torch.export and verify the .pt2 file"
        )
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
    package: Package,
    inputs: Annotated[Path, typer.Option("--inputs", "-i", help="A safetensors file of inputs by name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write outputs to.")],
    timeout: Timeout = 600.0,
    backend: Backend = "eager",
    as_json: AsJson = False,
) -> None:
    """Launch local ranks on given inputs and write the outputs."""
    from shardwright.package.manifest import read_manifest
    from shardwright.report.tables import Table, print_json
    from shardwright.run.files import read_inputs
    from shardwright.run.launch import launch
    from shardwright.run.worker import run_package

    manifest = read_manifest(package)
    read_inputs(inputs, manifest.input_names(), manifest.constants())
    if output.exists():
        raise ShardwrightError(f"{output} exists already\n  try: another name, or remove it first")
    with _working(f"running on {manifest.num_ranks} ranks"):
        words = (str(package.resolve()), str(inputs.resolve()), str(output.resolve()), backend)
        results = launch(manifest.num_ranks, run_package, *words, timeout_s=timeout)
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
    if issubclass(category, (CheckpointWarning, GatherWarning, PlanWarning, SolverWarning)):
        _err.print(f"warning: {message}", style="yellow", markup=False)
    else:
        _err.print(warnings.formatwarning(message, category, *where[:2]), markup=False, end="")


def _load(model: Path) -> Any:
    if _is_checkpoint(model):
        from shardwright.sources.checkpoint import open_checkpoint

        return open_checkpoint(model).exported
    from shardwright.program.exported import load_exported

    return load_exported(model)


def _is_checkpoint(model: Path) -> bool:
    return model.is_dir() or model.suffix == ".gguf"


def _dtype(name: str | None) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in known:
        raise ShardwrightError(f"--dtype {name!r} is none of {', '.join(known)}")
    return known.get(name) if name else None


def _show_package(sharded: Any, output: Path, *, unused: Sequence[Any] = (), as_json: bool) -> None:
    from shardwright.report.tables import (
        collectives_table,
        fallbacks_table,
        gathered_table,
        memory_table,
        print_json,
        unused_table,
        weights_table,
    )

    tables = [
        weights_table(sharded),
        collectives_table(sharded),
        memory_table(sharded),
        gathered_table(sharded),
        fallbacks_table(sharded),
        unused_table(unused),
    ]
    if as_json:
        print_json(tables, package=str(output))
        return
    _show_tables(tables)
    _err.print(f"wrote {output}")


def _show_tables(tables: Sequence[Any]) -> None:
    """Those that have rows."""
    for table in tables:
        if table.rows:
            table.show(_out, limit=40)


def _shard(model: Path, num_ranks: int, plan: str, *, slack: float, effort: float) -> Any:
    import shardwright

    return shardwright.shard(_load(model), mesh=num_ranks, plan=plan, slack=slack, effort=effort)


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A spinner with the time taken, on a terminal."""
    with Progress(SpinnerColumn(), TextColumn(what), TimeElapsedColumn(), console=_err, transient=True) as progress:
        progress.add_task(what)
        yield


@contextmanager
def _steps(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar; the function it gives takes what is being done, the steps done, and all steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda doing, done, total: progress.update(task, description=doing, completed=done, total=total)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar; the function it gives takes what is being done, the bytes done, and the bytes to do (0: not known)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def step(doing: str, done: int, total: int) -> None:
            progress.update(task, description=doing, completed=done, total=total or None)

        yield step
