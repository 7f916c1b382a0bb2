"""``shardwright gather``."""

from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import err
from shardwright.cli.options import Package
from shardwright.cli.progress import bytes_bar


def gather(
    package: Package,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write; it must not exist.")],
    optimizer: Annotated[
        Path | None,
        typer.Option("--optimizer", help="A file for the optimiser's state, as torch.load reads it."),
    ] = None,
) -> None:
    """Write the original state dict, whole, from a package."""
    import shardwright

    with bytes_bar("gathering") as step:
        names = shardwright.gather(package, output, optimizer=optimizer, progress=step)
    err.print(f"wrote {output}: {len(names)} tensors" + (f", and {optimizer}" if optimizer else ""))
