"""The same values again: aliases, copies, casts, parts of complex numbers.

Casts between numbers let partial sums through where the result holds every digit of the summands; to a narrower type
they do not, since rounding before adding loses digits.
"""

from shardwright.rules.operators.dims import named_dims
from shardwright.rules.operators.pointwise import adds_up, pointwise
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Rule, Term


def cast_like_rule(call: Call) -> Rule:
    """``type_as`` and ``to(other)``: the other tensor gives only its dtype, in whatever layout it lies."""
    dims, sizes = named_dims(call.operands[0].shape)
    linear = (frozenset({0}),) if adds_up(call.operands[0].dtype, call.result.dtype) else ()
    return Rule((dims, (Term(),) * call.operands[1].ndim), (dims,), sizes, linear=linear)


def _holds_all_digits(call: Call) -> bool:
    return adds_up(call.operands[0].dtype, call.result.dtype)


_SAME = pointwise(moves=True)
CAST = pointwise((0,), when=_holds_all_digits, moves=True)
_CAST_LIKE = Entry(cast_like_rule)
_PART = pointwise((0,), exact=True)

RULES: dict[str, Entry] = {
    "aten::_autocast_to_full_precision": CAST,
    "aten::_autocast_to_reduced_precision": CAST,
    "aten::_conj": _PART,
    "aten::_conj_copy": _PART,
    "aten::_conj_physical": _PART,
    "aten::_neg_view": _PART,
    "aten::_neg_view_copy": _PART,
    "aten::_to_copy": CAST,
    "aten::alias": _SAME,
    "aten::alias_copy": _SAME,
    "aten::clone": _SAME,
    "aten::complex": pointwise((0, 1)),
    "aten::conj": _PART,
    "aten::conj_physical": _PART,
    "aten::contiguous": _SAME,
    "aten::copy.default": pointwise((1,), (0, 1)),
    "aten::detach": _SAME,
    "aten::detach_copy": _SAME,
    "aten::fill.Tensor": pointwise((1,), (0, 1)),
    "aten::imag": _PART,
    "aten::lift": _SAME,
    "aten::lift_fresh": _SAME,
    "aten::lift_fresh_copy": _SAME,
    "aten::real": _PART,
    "aten::resolve_conj": _PART,
    "aten::resolve_neg": _PART,
    "aten::to.device": CAST,
    "aten::to.dtype": CAST,
    "aten::to.dtype_layout": CAST,
    "aten::to.other": _CAST_LIKE,
    "aten::to.prim_Device": CAST,
    "aten::to.prim_dtype": CAST,
    "aten::to.prim_other": _SAME,
    "aten::type_as": _CAST_LIKE,
}
