"""Bytes, times, layouts and names of layers, for people."""

import re

from shardwright.layout.layout import Layout, Replicate


def format_bytes(count: float) -> str:
    """A byte count for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes everything")


def format_time(microseconds: float) -> str:
    """A time for people."""
    if microseconds < 1e3:
        return f"{microseconds:.3g} µs"
    return f"{microseconds / 1e3:.3g} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.3g} s"


def format_layout(layout: Layout) -> str:
    """A layout in a word."""
    return "whole" if isinstance(layout, Replicate) else repr(layout)


def star_layers(text: str) -> str:
    """A name or sentence with the layer numbers of module paths as ``*``: ``layers.3.up``, ``key_cache_3``."""
    return re.sub(r"(?<=[._])\d+(?=\.|['\"\s,;:]|$)", "*", text)
