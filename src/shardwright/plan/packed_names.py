"""Weights that a module stores packed: the tensor that holds a weight's numbers, and which way its dims lie.

A plan says how a weight is cut; its numbers are cut so. Scales and zero points follow at the least cost: with the
numbers where a cut keeps whole blocks together, else whole on every rank.
"""

from collections.abc import Iterable

from shardwright.layout.layout import Layout, Shard

_NUMBERS = {"qweight": "weight", "weight_packed": "weight"}
"""The last token of the numbers' name → that of the weight's."""

_TRANSPOSED = frozenset({"qweight"})
"""Those of them that lie (in, out) where the weight is (out, in)."""


def packed_numbers(tensors: Iterable[str]) -> dict[str, list[str]]:
    """The names of weights that are stored packed → the tensor that holds each one's numbers."""
    found = {}
    for name in tensors:
        prefix, dot, last = name.rpartition(".")
        if last in _NUMBERS:
            found[f"{prefix}{dot}{_NUMBERS[last]}"] = [name]
    return found


def as_packed(name: str, layout: Layout) -> Layout:
    """A weight's layout as that of the tensor ``name`` that holds its numbers."""
    if isinstance(layout, Shard) and name.rpartition(".")[2] in _TRANSPOSED:
        return Shard(1 - layout.dim % 2, layout.cut)
    return layout
