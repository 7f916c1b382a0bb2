"""Weights that a module stores packed: the tensor that holds a weight's numbers, and which way its dims lie.

A plan says how a weight is cut; its numbers are cut so. Scales and zero points follow at the least cost: with the
numbers where a cut keeps whole blocks together, else whole on every rank.
"""

import re
from collections.abc import Iterable

from shardwright.layout.layout import Layout, Shard

_NUMBERS = {"qweight": "weight", "weight_packed": "weight"}
"""The last token of the numbers' name → that of the weight's."""

_TRANSPOSED = frozenset({"qweight"})
"""Those of them that lie (in, out) where the weight is (out, in)."""


_STACK = re.compile(r"(.+?)__[^.]+?__(weight|weight_packed|qweight|_weight_qdata)")
"""The numbers of one projection of experts: the weight's name, the projection's, the numbers'."""

_GGUF = re.compile(r"(.+?)(?:__[^.]+?_)?_gguf(_t)?")
"""Blocks (…, out, blocks, bytes) of a weight (…, out, in), or of one (…, in, out)."""

_BLOCKS, _SCALES = "_blocks", "_scales"
"""Ends of names that lie beside each other: blocks (experts, out, groups, bytes) of a weight (experts, in, out)."""


_TORCHAO = re.compile(r"_(.+)_qdata")
"""The last token of the name of torchao's numbers: the weight's is within."""


def packed_numbers(tensors: Iterable[str]) -> dict[str, list[str]]:
    """The names of weights that are stored packed → the tensor that holds each one's numbers."""
    found: dict[str, list[str]] = {}
    every = dict.fromkeys(tensors)
    for name in every:
        prefix, dot, last = name.rpartition(".")
        stem = name.removesuffix(_BLOCKS)
        if stem != name and stem + _SCALES in every:
            found.setdefault(stem, []).append(name)
        elif last in _NUMBERS:
            found.setdefault(f"{prefix}{dot}{_NUMBERS[last]}", []).append(name)
        elif inner := _TORCHAO.fullmatch(last):
            found.setdefault(f"{prefix}{dot}{inner[1]}", []).append(name)
        elif stack := _GGUF.fullmatch(last) or _STACK.fullmatch(last):
            found.setdefault(f"{prefix}{dot}{stack[1]}", []).append(name)
    return found


def as_packed(name: str, num_dims: int, layout: Layout) -> Layout:
    """A weight's layout as that of the tensor ``name``, of as many dims, that holds its numbers."""
    if not isinstance(layout, Shard):
        return layout
    if blocks := _GGUF.fullmatch(name.rpartition(".")[2]):
        num_dims -= 1
        if not blocks[2]:
            return Shard(layout.dim % num_dims, layout.cut)
    elif name.endswith(_BLOCKS):
        num_dims -= 1
    elif re.split(r"\.|__", name)[-1] not in _TRANSPOSED:
        return layout
    rows, columns = num_dims - 2, num_dims - 1
    dim = layout.dim % num_dims
    return Shard({rows: columns, columns: rows}.get(dim, dim), layout.cut)
