"""``shardwright reshard``."""

from typing import Annotated

import typer

from shardwright.cli.options import AsJson, Hardware, NumRanks, OutputFolder, Package
from shardwright.cli.progress import bytes_bar
from shardwright.cli.show import show_package


def reshard(
    package: Package,
    output: OutputFolder,
    tp: NumRanks,
    plan: Annotated[
        str | None, typer.Option("--plan", help="'auto', or a YAML file; default: the plan the package was made with.")
    ] = None,
    hardware: Hardware = None,
    as_json: AsJson = False,
) -> None:
    """Make a package for another number of ranks from a package, without the original model."""
    import shardwright

    with bytes_bar("reading") as step:
        sharded = shardwright.reshard(package, output, mesh=tp, plan=plan, cost=hardware, progress=step)
    show_package(sharded, output, as_json=as_json)
