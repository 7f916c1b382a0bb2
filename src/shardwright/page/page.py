"""`write_page`: one self-contained HTML file that shows where weights live, what is sent, and what it costs."""

import os
from collections import Counter
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined

from shardwright.layout.layout import Layout, Shard
from shardwright.layout.values import check_free
from shardwright.page.branches import module_branches
from shardwright.page.facts import Facts, WeightFacts
from shardwright.page.layer_times import layer_times
from shardwright.page.words import format_bytes, format_layout, format_time
from shardwright.program.atomic import written_whole

_STRIP_HEIGHT = 100
"""Units of the tallest bar of the strip of collectives."""


def write_page(facts: Facts, path: str | os.PathLike[str], *, title: str) -> None:
    """Write the page as ``path``, which must not exist; raises `ShardwrightError` where it does. Nothing is loaded by
    it: no script, font or style from elsewhere.
    """
    file = check_free(path, "the page")
    text = page_text(facts, title=title)
    with written_whole(file) as draft:
        draft.write_text(text, encoding="utf-8")


def page_text(facts: Facts, *, title: str) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"bytes": format_bytes, "time": format_time, "layout": format_layout, "colour": _colour}
    environment.filters |= {"held": _held, "ranks": _ranks}
    template = resources.files("shardwright.page").joinpath("page.html").read_text(encoding="utf-8")
    layers = layer_times(facts)
    return environment.from_string(template).render(
        title=title,
        facts=facts,
        axes=", ".join(f"{axis} of {size}" for axis, size in facts.mesh),
        root=module_branches(facts),
        bars=_bars(facts),
        kinds=sorted({str(one.kind) for one in facts.collectives}),
        sums=_sums(facts),
        layers=layers,
        longest_us=max((layer.compute_us + layer.communication_us for layer in layers), default=0) or 1,
    )


@dataclass(frozen=True, slots=True)
class _Bar:
    """A collective in the strip: ``number`` from 1, its predicted time, and the height that stands for it."""

    number: int
    kind: str
    axis: str
    num_bytes: int
    time_us: float
    height: float
    module: str
    source: str
    cause: str


def _bars(facts: Facts) -> list[_Bar]:
    times = facts.times_us()
    most = max(times, default=0) or 1
    return [
        _Bar(
            number=number,
            kind=str(one.kind),
            axis=one.axis,
            num_bytes=one.num_bytes,
            time_us=time_us,
            height=max(_STRIP_HEIGHT * time_us / most, 1),
            module=one.module,
            source=one.source,
            cause=one.cause,
        )
        for number, (one, time_us) in enumerate(zip(facts.collectives, times, strict=True), 1)
    ]


def _sums(facts: Facts) -> list[tuple[str, str, int, int, float]]:
    """Kind, axis, count, bytes and predicted time of all collectives of a kind along an axis."""
    count: Counter[tuple[str, str]] = Counter()
    sent: Counter[tuple[str, str]] = Counter()
    spent: dict[tuple[str, str], float] = {}
    for one, time_us in zip(facts.collectives, facts.times_us(), strict=True):
        key = str(one.kind), one.axis
        count[key] += 1
        sent[key] += one.num_bytes
        spent[key] = spent.get(key, 0.0) + time_us
    return [(*key, count[key], sent[key], spent[key]) for key in count]


def _colour(layout: Layout) -> str:
    """The style class of a layout: one for each dim that may be cut, one for all that is not cut."""
    return f"dim{min(layout.dim, 3)}" if isinstance(layout, Shard) else "whole"


def _held(counts: "WeightFacts | list[int]") -> str:
    """Bytes a rank: one number where all ranks hold as much."""
    each = counts.rank_bytes if isinstance(counts, WeightFacts) else counts
    least, most = min(each), max(each)
    return format_bytes(most) if least == most else f"{format_bytes(least)} to {format_bytes(most)}"


def _ranks(counts: "list[int]") -> str:
    """The bytes of every rank, as text to hover over; of the first sixteen where there are more."""
    shown = [f"rank {rank}: {format_bytes(count)}" for rank, count in enumerate(counts[:16])]
    return "\n".join([*shown, *([f"and {len(counts) - 16} more"] if len(counts) > 16 else [])])
