"""What a command that wrote a package shows of it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardwright.cli.console import err, out


def show_package(sharded: Any, output: Path, *, unused: Sequence[Any] = (), as_json: bool) -> None:
    """Show what a package holds: weights, collectives, memory, fallbacks."""
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
        print_json(tables, package=str(output), prediction=asdict(sharded.prediction))
        return
    show_tables(tables)
    out.print(str(sharded.prediction), markup=False)
    err.print(f"wrote {output}")


def show_tables(tables: Sequence[Any]) -> None:
    """Those that have rows."""
    for table in tables:
        if table.rows:
            table.show(out, limit=40)
