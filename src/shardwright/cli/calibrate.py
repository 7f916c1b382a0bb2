"""``shardwright calibrate``."""

from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import err, out
from shardwright.cli.options import AsJson, Threads, Timeout, Transport
from shardwright.cli.progress import spinner


def calibrate(
    ranks: Annotated[int, typer.Option("--ranks", min=2, help="The number of local ranks.")] = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write, for --hardware; it must not exist.")
    ] = None,
    timeout: Timeout = 600.0,
    transport: Transport = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: what collectives, memory, matmuls and calls take on local ranks."""
    import shardwright
    from shardwright.report.tables import Table, print_json

    with spinner(f"measuring on {ranks} ranks"):
        model = shardwright.calibrate(ranks, output, transport=transport, threads=threads, timeout_s=timeout)
    table = Table("Constants", ("constant", "value"), list(model.constants().items()), frozenset({"value"}))
    if as_json:
        print_json([table], name=model.name)
        return
    out.print(model.name, markup=False)
    table.show(out)
    if output is not None:
        err.print(f"wrote {output}")
