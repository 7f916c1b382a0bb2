"""``shardwright run``."""

from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import err, out
from shardwright.cli.options import AsJson, Backend, Package, Threads, Timeout, Transport
from shardwright.cli.progress import spinner
from shardwright.layout.values import check_free


def run(
    package: Package,
    inputs: Annotated[Path, typer.Option("--inputs", "-i", help="A safetensors file of inputs by name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write outputs to.")],
    timeout: Timeout = 600.0,
    backend: Backend = "eager",
    transport: Transport = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Launch local ranks on given inputs and write the outputs."""
    from shardwright.package.manifest import read_manifest
    from shardwright.report.tables import Table, print_json
    from shardwright.run.launch import launch
    from shardwright.run.tensor_files import read_inputs
    from shardwright.run.worker import run_package

    manifest = read_manifest(package)
    read_inputs(inputs, manifest.input_names(), manifest.constants())
    check_free(output, "the output")
    with spinner(f"running on {manifest.num_ranks} ranks"):
        words = str(package.resolve()), str(inputs.resolve()), str(output.resolve()), {"backend": backend}
        how = {"timeout_s": timeout, "threads": threads, "transport": transport}
        results = launch(manifest.num_ranks, run_package, *words, **how)
    table = Table("Outputs", ("output", "shape", "dtype"), results[0])
    if as_json:
        print_json([table], output=str(output))
    else:
        table.show(out)
        err.print(f"wrote {output}")
