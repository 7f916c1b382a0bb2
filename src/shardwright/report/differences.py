"""Tables of what two sharded programs differ in."""

from shardwright.page.difference import Difference, Total
from shardwright.page.words import format_bytes, format_time
from shardwright.report.tables import Table


def difference_tables(difference: Difference, first: str, second: str) -> list[Table]:
    """Totals, weights held otherwise, and collectives of which there are not as many; columns are named after each."""
    one, other = (first, second) if first != second else (f"{first} (1)", f"{second} (2)")
    totals = [
        (total.what, *(_spelled(value, total.unit) for value in total.values), _ratio(total))
        for total in difference.totals
    ]
    weights = [
        (w.name, w.count, *(layout or "absent" for layout in w.layouts), *w.rank_bytes) for w in difference.weights
    ]
    sent = [(c.kind, c.axis, c.num_bytes, c.module, *c.counts) for c in difference.collectives]
    held = f"bytes per rank, {one}", f"bytes per rank, {other}"
    return [
        Table("Totals", ("of the whole", one, other, "ratio"), totals, frozenset({one, other, "ratio"})),
        Table("Weights held otherwise", ("tensor", "count", one, other, *held), weights, frozenset({"count", *held})),
        Table(
            "Collectives of one only, or not as many",
            ("kind", "axis", "bytes each", "module", one, other),
            sent,
            frozenset({"bytes each", one, other}),
        ),
    ]


def _spelled(value: float, unit: str) -> str:
    if unit == "bytes":
        return format_bytes(value)
    return format_time(value) if unit == "us" else f"{value:.0f}"


def _ratio(total: Total) -> str:
    first, second = total.values
    return f"{second / first:.2f}" if first else "–"
