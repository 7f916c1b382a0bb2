"""``shardwright compile``."""

from shardwright.cli.console import err
from shardwright.cli.options import Package
from shardwright.cli.progress import steps_bar


def compile_(package: Package) -> None:
    """Compile every rank's program of a package for this machine, with AOTInductor."""
    import shardwright

    with steps_bar("reading") as step:
        names = shardwright.compile_package(package, progress=step)
    err.print(f"wrote {package / 'compiled'}: {len(names)} files")
