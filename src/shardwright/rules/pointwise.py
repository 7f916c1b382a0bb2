"""Pointwise operators: every result element depends on the operand elements at the same (broadcast) index.

Everything torch tags ``pointwise`` gets the rule by itself; the table adds the untagged ones and says which operators
are linear, so that partial sums pass.
"""

from typing import Any

import torch

from shardwright.rules.registry import Entry, rule_of
from shardwright.rules.rule import Call, Rule
from shardwright.rules.notation import bind, parse


def pointwise(*linear: tuple[int, ...], moves: bool = False) -> Entry:
    """Elementwise over broadcast operands; ``linear``: sets of schema tensor arguments that are jointly linear."""

    def build(call: Call) -> Rule:
        results = [r.shape for r in call.results if r is not None]
        text = ", ".join(["..."] * len(call.operands)) + " -> " + ", ".join(["..."] * len(results))
        bound = bind(parse(text), [t.shape for t in call.operands], results)
        sets = tuple(frozenset(group) for group in linear if max(group) < len(call.operands))
        return rule_of(bound, linear=sets, moves=moves)

    return Entry(build)


def find(op: Any) -> Entry | None:
    """The pointwise rule for operators that torch tags so."""
    return _PLAIN if torch.Tag.pointwise in getattr(op, "tags", ()) else None


_PLAIN = pointwise()
_MOVE = pointwise((0,), moves=True)

RULES: dict[str, Entry] = {
    "aten::add.Tensor": pointwise((0, 1)),
    "aten::alias": _MOVE,
    "aten::clone": _MOVE,
    "aten::contiguous": _MOVE,
    "aten::detach": _MOVE,
    "aten::div.Scalar": pointwise((0,)),
    "aten::div.Tensor": pointwise((0,)),
    "aten::mul.Scalar": pointwise((0,)),
    "aten::mul.Tensor": pointwise((0,), (1,)),
    "aten::neg": pointwise((0,)),
    "aten::sub.Tensor": pointwise((0, 1)),
    "aten::where.self": pointwise((1, 2)),
}
