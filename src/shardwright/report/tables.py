"""Tables: each is built once as plain rows, shown with rich or printed as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from shardwright.compiler.sharded import ShardedProgram
from shardwright.compiler.weights import WeightLayout
from shardwright.page.words import format_bytes, format_layout, star_layers
from shardwright.sources.hugging_face.checkpoint_files import Unused


@dataclass(frozen=True)
class Table:
    """Rows under column names; ``right``: the columns set flush right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    right: frozenset[str] = frozenset()

    def as_data(self) -> list[dict[str, Any]]:
        """The rows as mappings."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def show(self, console: Console, *, limit: int | None = None) -> None:
        """Print the table; ``limit``: at most so many rows, with a note on the rest."""
        shown = RichTable(title=self.title, title_justify="left", header_style="bold", show_edge=False)
        for column in self.columns:
            # As text: brackets of plan keys and file names are no markup.
            shown.add_column(Text(column), justify="right" if column in self.right else "left", overflow="fold")
        for row in self.rows[:limit]:
            shown.add_row(*(Text(_text(column, value)) for column, value in zip(self.columns, row, strict=True)))
        console.print(shown)
        if limit is not None and len(self.rows) > limit:
            console.print(f"… and {len(self.rows) - limit} more", style="dim")


def make_console(*, stderr: bool = False) -> Console:
    """A console that keeps tables readable where the output is not a terminal (a log, a pipe)."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=150)


def print_json(tables: Sequence[Table], **facts: Any) -> None:
    """Print tables and further facts as one JSON object on standard output."""
    data = {table.title.lower().replace(" ", "_"): table.as_data() for table in tables}
    print(json.dumps({**facts, **data}, indent=2, default=str))  # noqa: T201 - the command's output


def weights_table(sharded: ShardedProgram, *, merge: bool = True) -> Table:
    """Where weights live. ``merge``: tensors that differ only in layer numbers, and agree in all else, share a row."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for w in sharded.weights:
        name = star_layers(w.name) if merge else w.name
        layout = ", ".join(f"{axis}: {_format_axis(w, axis)}" for axis in w.layouts)
        key = (name, str(tuple(w.shape)), layout, w.plan_key)
        groups.setdefault(key, []).append(w)
    rows = [
        (name, len(found), shape, layout, sum(w.num_bytes for w in found), sum(max(w.rank_bytes) for w in found), key)
        for (name, shape, layout, key), found in groups.items()
    ]
    columns = ("tensor", "count", "shape", "layout", "bytes", "bytes per rank", "plan entry")
    return Table("Weights", columns, rows, frozenset({"count", "bytes", "bytes per rank"}))


def collectives_table(sharded: ShardedProgram) -> Table:
    """Every collective with its cause; those that differ only in layer numbers share a row.

    ``messages``: as how many they are sent, as small values may go together.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for c in sharded.collectives:
        source = c.source.rsplit("/", 1)[-1]
        key = (c.kind, c.axis, c.num_bytes, star_layers(c.module), source, star_layers(c.cause))
        groups.setdefault(key, []).append(c.message)
    rows = [(len(sent), sent.count(0) + len({*sent} - {0}), *key) for key, sent in groups.items()]
    columns = ("count", "messages", "kind", "axis", "bytes each", "module", "source", "cause")
    return Table("Collectives", columns, rows, frozenset({"count", "messages", "bytes each"}))


def memory_table(sharded: ShardedProgram) -> Table:
    """Weight bytes of every rank."""
    weights = sharded.weights
    whole = sum(w.num_bytes for w in weights)
    rows = []
    for rank in range(sharded.mesh.num_ranks):
        held = sum(w.rank_bytes[rank] for w in weights)
        rows.append((rank, held, f"{100 * held / max(whole, 1):.1f} %"))
    return Table(
        "Memory", ("rank", "bytes", "share of the whole"), rows, frozenset({"rank", "bytes", "share of the whole"})
    )


def fallbacks_table(sharded: ShardedProgram) -> Table:
    """Operators run whole for want of a rule."""
    rows = [(f.node, f.op, f.module, f.source, f.reason) for f in sharded.fallbacks]
    return Table("Fallbacks", ("node", "operator", "module", "source", "reason"), rows)


def gathered_table(sharded: ShardedProgram) -> Table:
    """Weights that are brought together at every call; those that differ only in layer numbers share a row."""
    groups: dict[tuple[Any, ...], int] = {}
    for one in sharded.gathered_weights:
        names, source = star_layers(", ".join(one.weights)), one.source.rsplit("/", 1)[-1]
        key = (names, one.axis, one.num_bytes, star_layers(one.module), source, one.reader, one.plan_key)
        groups[key] = groups.get(key, 0) + 1
    rows = [(key[0], count, *key[1:]) for key, count in groups.items()]
    columns = ("weights", "count", "axis", "bytes each", "read in", "source", "read by", "plan entry")
    return Table("Weights gathered at every call", columns, rows, frozenset({"count", "bytes each"}))


def unused_table(unused: Sequence[Unused]) -> Table:
    """What a checkpoint holds and nothing reads."""
    rows = [(one.name or "(the whole file)", one.file, one.why) for one in unused]
    return Table("Not read from the checkpoint", ("tensor", "file", "reason"), rows)


def _format_axis(weight: WeightLayout, axis: str) -> str:
    """A weight's layout on an axis, and what it is elsewhere."""
    others = dict.fromkeys(format_layout(one) for one in weight.elsewhere.get(axis, {}).values())
    return " or ".join([format_layout(weight.layouts[axis]), *others])


def _text(column: str, value: Any) -> str:
    return format_bytes(value) if column.startswith("bytes") and isinstance(value, (int, float)) else str(value)
