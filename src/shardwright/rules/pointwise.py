"""Pointwise operators: every result element depends on the operand elements at the same (broadcast) index.

Everything torch tags ``pointwise`` gets the rule by itself; the table adds the untagged ones and says which operators
are linear, so that partial sums pass.
"""

from collections.abc import Callable
from typing import Any

import torch

from shardwright.rules.notation import bind, parse
from shardwright.rules.registry import Entry, einsum, rule_of
from shardwright.rules.rule import Call, Rule, Term


def pointwise_rule(call: Call, linear: tuple[tuple[int, ...], ...] = (), *, moves: bool = False) -> Rule:
    """Elementwise over broadcast operands; ``linear``: sets of operands in which the call is jointly linear."""
    results = [r.shape for r in call.results if r is not None]
    text = ", ".join(["..."] * len(call.operands)) + " -> " + ", ".join(["..."] * len(results))
    bound = bind(parse(text), [t.shape for t in call.operands], results)
    sets = tuple(frozenset(group) for group in linear if max(group) < len(call.operands))
    return rule_of(bound, linear=sets, moves=moves)


def pointwise(*linear: tuple[int, ...], when: Callable[[Call], bool] | None = None, moves: bool = False) -> Entry:
    """The entry of a pointwise operator that is linear in these operand sets (if ``when`` holds for the call)."""

    def build(call: Call) -> Rule:
        is_linear = when is None or when(call)
        return pointwise_rule(call, linear if is_linear else (), moves=moves and is_linear)

    return Entry(build)


def find(op: Any) -> Entry | None:
    """The pointwise rule for operators that torch tags so."""
    return _PLAIN if torch.Tag.pointwise in getattr(op, "tags", ()) else None


def _keeps_floats(call: Call) -> bool:
    """Floats in and out, and none narrower: rounding partial sums before they are added loses digits."""
    source, target = call.operands[0].dtype, call.result.dtype
    both = source.is_floating_point and target.is_floating_point
    return both and target.itemsize >= source.itemsize


def _both_tensors(call: Call) -> bool:
    return len(call.operands) == 2 and _keeps_floats(call)


def _fills_zero(call: Call) -> bool:
    value = call["value"]
    return isinstance(value, (int, float)) and value == 0


def _without_rounding(call: Call) -> bool:
    return call.arguments.get("rounding_mode") is None and _keeps_floats(call)


def _is_eval(call: Call) -> bool:
    return not call.arguments.get("train", call.arguments.get("training", False))


def dropout_rule(call: Call) -> Rule | None:
    """``dropout``: the identity when it does not train, otherwise random and without a rule."""
    return pointwise_rule(call, ((0,),)) if _is_eval(call) or not call["p"] else None


def like_rule(call: Call) -> Rule:
    """``type_as``/``to(other)``: the other tensor gives only its dtype, in whatever layout it lies."""
    source, other = call.operands[0].shape, call.operands[1].shape
    dims = tuple(Term((f"d{i}",)) for i in range(len(source)))
    own = tuple(Term((f"x{i}",)) for i in range(len(other)))
    sizes = {**{f"d{i}": s for i, s in enumerate(source)}, **{f"x{i}": s for i, s in enumerate(other)}}
    linear = (frozenset({0}),) if _keeps_floats(call) else ()
    return Rule((dims, own), (dims,), sizes, dropped=frozenset(f"x{i}" for i in range(len(other))), linear=linear)


_PLAIN = pointwise()
_MOVE = pointwise((0,), moves=True)
_CAST = pointwise((0,), when=_keeps_floats, moves=True)
_SAME = pointwise((0,), when=lambda call: call.operands[0].dtype == call.result.dtype, moves=True)

RULES: dict[str, Entry] = {
    "aten::__and__": _PLAIN,
    "aten::__lshift__": _PLAIN,
    "aten::__or__": _PLAIN,
    "aten::__rshift__": _PLAIN,
    "aten::__xor__": _PLAIN,
    "aten::_conj": pointwise((0,)),
    "aten::_to_copy": _CAST,
    "aten::add.Tensor": pointwise((0, 1), when=_both_tensors),
    "aten::alias": _MOVE,
    "aten::alias_copy": _MOVE,
    "aten::clone": _MOVE,
    "aten::contiguous": _MOVE,
    "aten::copy": pointwise((1,), when=_keeps_floats),
    "aten::detach": _MOVE,
    "aten::detach_copy": _MOVE,
    "aten::div.Scalar": pointwise((0,), when=_keeps_floats),
    "aten::div.Tensor": pointwise((0,), when=_keeps_floats),
    "aten::div.Tensor_mode": pointwise((0,), when=_without_rounding),
    "aten::divide.Tensor": pointwise((0,), when=_keeps_floats),
    "aten::dropout": Entry(dropout_rule),
    "aten::lift_fresh_copy": _MOVE,
    "aten::masked_fill.Scalar": pointwise((0,), when=_fills_zero),
    "aten::mul.Scalar": pointwise((0,)),
    "aten::mul.Tensor": pointwise((0,), (1,), when=_keeps_floats),
    "aten::multiply.Tensor": pointwise((0,), (1,), when=_keeps_floats),
    "aten::native_dropout": Entry(dropout_rule),
    "aten::neg": pointwise((0,)),
    "aten::negative": pointwise((0,)),
    "aten::one_hot": einsum("... -> ... n!"),
    "aten::rsub.Tensor": pointwise((0, 1), when=_both_tensors),
    "aten::sub.Tensor": pointwise((0, 1), when=_both_tensors),
    "aten::subtract.Tensor": pointwise((0, 1), when=_both_tensors),
    "aten::to.device": _CAST,
    "aten::to.dtype": _CAST,
    "aten::to.dtype_layout": _CAST,
    "aten::to.other": Entry(like_rule),
    "aten::type_as": Entry(like_rule),
    "aten::where.self": pointwise((1, 2), when=lambda call: call.result.dtype.is_floating_point),
}
