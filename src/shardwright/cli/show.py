"""What a command that wrote a package shows of it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from shardwright.cli.console import err, out


def show_package(sharded: Any, output: Path, *, unused: Sequence[Any] = (), as_json: bool) -> None:
    """Show what a package holds: weights, collectives, memory, fallbacks."""
    from shardwright.report.tables import print_json, unused_table

    if as_json:
        tables = [*_tables(sharded), unused_table(unused)]
        print_json(tables, package=str(output), prediction=asdict(sharded.prediction))
        return
    show_sharded(sharded, unused=unused)
    err.print(f"wrote {output}")


def show_sharded(sharded: Any, *, unused: Sequence[Any] = (), console: Console = out) -> None:
    """Show what a plan makes of a program, and what it is predicted to cost."""
    from shardwright.report.tables import unused_table

    show_tables([*_tables(sharded), unused_table(unused)], console)
    console.print(str(sharded.prediction), markup=False)


def show_tables(tables: Sequence[Any], console: Console = out) -> None:
    """Those that have rows."""
    for table in tables:
        if table.rows:
            table.show(console, limit=40)


def _tables(sharded: Any) -> list[Any]:
    from shardwright.report.tables import (
        collectives_table,
        fallbacks_table,
        gathered_table,
        memory_table,
        weights_table,
    )

    makers = (weights_table, collectives_table, memory_table, gathered_table, fallbacks_table)
    return [make(sharded) for make in makers]
