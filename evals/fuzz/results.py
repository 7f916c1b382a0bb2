"""What was judged: JSON lines, one a seed, appended; the last verdict on a seed counts. Faults as files that run."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

FOLDER = Path("evals/results/fuzz")
"""Where records and faults are written; not kept in git."""

Row = Mapping[str, Any]


def read(path: Path) -> dict[str, Row]:
    """The last record by name."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def table(rows: Iterable[Row]) -> Table:
    """How many of each task were right, refused in words (by the error), or a fault (by its kind)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    totals: Counter[str] = Counter()
    for row in rows:
        task = row["name"].rpartition(" ")[0]
        counts[task, row["verdict"], row["kind"]] += 1
        totals[task] += 1
    found = Table("of", "verdict", "kind", "seeds")
    for (task, word, kind), count in sorted(counts.items()):
        style = "red" if word == "fault" else None
        found.add_row(task, word, kind, f"{count} of {totals[task]}", style=style)
    return found
