"""Pointwise operators: every result element depends on the operand elements at the same (broadcast) index.

Everything torch tags ``pointwise`` gets the rule by itself; the table adds the untagged ones and says which operators
are linear, and in what, so that partial sums pass. A set of operands counts only where all of them are tensors
(``x + 1`` is not linear) and no digit of a partial sum is rounded away before it is added (see `adds_up`).
"""

from collections.abc import Callable
from typing import Any

import torch

from shardwright.rules.notation import bind_shapes, parse
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.registry import Entry, einsum, rule_of, tensor_slots
from shardwright.rules.rule import Call, Rule, Term


def pointwise_rule(
    call: Call, linear: tuple[tuple[int, ...], ...] = (), *, moves: bool = False, exact: bool = False
) -> Rule:
    """Elementwise over broadcast operands.

    ``linear``: sets of operands in which the call is jointly linear, counted among the schema's tensor arguments.
    ``exact``: whether it is so for every dtype.
    """
    results = [r.shape for r in call.results if r is not None]
    text = ", ".join(["..."] * len(call.operands)) + " -> " + ", ".join(["..."] * len(results))
    bound = bind_shapes(parse(text), [t.shape for t in call.operands], results)
    slots = tensor_slots(call)
    numbers = {slot: n for n, slot in enumerate(i for i, meta in enumerate(slots) if meta is not None)}

    def holds(slot: int) -> bool:
        meta = slots[slot]
        return meta is not None and (exact or adds_up(meta.dtype, call.result.dtype))

    sets = tuple(frozenset(numbers[slot] for slot in group) for group in linear if all(map(holds, group)))
    return rule_of(bound, linear=sets, moves=moves)


def adds_up(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether summands of one dtype keep all their digits in another: both floats (or complex), or both integers."""
    if torch.bool in (source, target):
        return False
    source_kind, target_kind = (d.is_floating_point or d.is_complex for d in (source, target))
    if source_kind != target_kind or (source.is_complex and not target.is_complex):
        return False
    if not source_kind:
        return target.itemsize >= source.itemsize
    # Of a complex number, what its parts hold: a complex32 is as wide as a float32 and holds less.
    wide, narrow = torch.finfo(target), torch.finfo(source)
    return wide.eps <= narrow.eps and wide.max >= narrow.max


def pointwise(
    *linear: tuple[int, ...], when: Callable[[Call], bool] | None = None, moves: bool = False, exact: bool = False
) -> Entry:
    """The entry of a pointwise operator that is linear in these operand sets (if ``when`` holds for the call)."""

    def build(call: Call) -> Rule:
        holds = when is None or when(call)
        return pointwise_rule(call, linear if holds else (), moves=moves and holds, exact=exact)

    return Entry(build)


def find(op: Any) -> Entry | None:
    """The pointwise rule for operators that torch tags so."""
    return _PLAIN if torch.Tag.pointwise in getattr(op, "tags", ()) else None


def _is_zero(*names: str) -> Callable[[Call], bool]:
    """Whether these numbers, which stand where tensors could, are zero."""
    return lambda call: all(isinstance(call[name], (int, float)) and call[name] == 0 for name in names)


def _without_rounding(call: Call) -> bool:
    return call["rounding_mode"] is None


def dropout_rule(call: Call) -> Rule | None:
    """``dropout`` and its like: the identity when it does not train; otherwise random, and without a rule."""
    # Left out, `train` means that it does.
    if call["train"] in (None, True) and call["p"]:
        return None
    # A mask that comes along is not a sum.
    return pointwise_rule(call, moves=len(call.results) == 1)


def rrelu_rule(call: Call) -> Rule | None:
    """``rrelu``: a leaky ReLU when it does not train; otherwise random, and without a rule."""
    return None if call["training"] else pointwise_rule(call)


def prelu_rule(call: Call) -> Rule:
    """``prelu``: one slope for all, or one for each channel, which is dim 1."""
    dims, sizes = named_dims(call.operands[0].shape)
    weight = call.operands[1].shape
    if len(weight) == 0:
        return Rule((dims, ()), (dims,), sizes)
    channels = dims[1] if len(dims) > 1 and weight[0] != 1 else Term()
    return Rule((dims, (channels,)), (dims,), sizes)


def log_sigmoid_rule(call: Call) -> Rule:
    """``log_sigmoid_forward`` and its gradient: what is kept for that is empty on GPUs."""
    dims, sizes = named_dims(call.operands[0].shape)
    sides = tuple(dims if one.shape == call.operands[0].shape else (Term(),) * one.ndim for one in call.operands)
    results = tuple(
        None if r is None else dims if r.shape == call.operands[0].shape else (Term(),) for r in call.results
    )
    empty = frozenset(index for index, one in enumerate(results) if one is not dims)
    linear = (frozenset({0}),) if "backward" in call.schema_name else ()
    return Rule(sides, results, sizes, independent=empty, linear=linear)


def glu_rule(call: Call) -> Rule:
    """``glu``: the dim is (two, own); each rank's piece holds its part of both halves."""
    dims, sizes = named_dims(call.result.shape)
    dim = dim_of(call, len(dims), default=-1)
    sizes["two"] = 2
    whole = put(dims, dim, Term(("two", f"d{dim}")))
    return Rule((whole,), (dims,), sizes, frozenset({"two"}), dropped=frozenset({"two"}))


_PLAIN, _ADD, _MUL, _SCALE = pointwise(), pointwise((0, 1)), pointwise((0,), (1,)), pointwise((0,))
_DIV_MODE, _DROPOUT = pointwise((0,), when=_without_rounding), Entry(dropout_rule)

RULES: dict[str, Entry] = {
    "aten::__lshift__": _PLAIN,
    "aten::__rshift__": _PLAIN,
    "aten::_prelu_kernel": _PLAIN,
    "aten::add.Scalar": pointwise((0,), when=_is_zero("other")),
    "aten::add.Tensor": _ADD,
    "aten::addcdiv": pointwise((0, 1)),
    "aten::addcmul": pointwise((0, 1), (0, 2)),
    "aten::alpha_dropout": _DROPOUT,
    "aten::deg2rad": _SCALE,
    "aten::div.Scalar": _SCALE,
    "aten::div.Scalar_mode": _DIV_MODE,
    "aten::div.Tensor": _SCALE,
    "aten::div.Tensor_mode": _DIV_MODE,
    "aten::dropout": _DROPOUT,
    "aten::feature_alpha_dropout": _DROPOUT,
    "aten::feature_dropout": _DROPOUT,
    "aten::fill.Scalar": _PLAIN,
    "aten::floor_divide": _PLAIN,
    "aten::gelu_backward": _SCALE,
    "aten::glu": Entry(glu_rule),
    "aten::hardswish": _PLAIN,
    "aten::isclose": _PLAIN,
    "aten::isreal": _PLAIN,
    "aten::ldexp.Tensor": _SCALE,
    "aten::lerp.Scalar": pointwise((0, 1)),
    "aten::lerp.Tensor": pointwise((0, 1)),
    "aten::log_sigmoid": _PLAIN,
    "aten::log_sigmoid_backward": Entry(log_sigmoid_rule),
    "aten::log_sigmoid_forward": Entry(log_sigmoid_rule),
    "aten::masked_fill.Scalar": pointwise((0,), when=_is_zero("value")),
    "aten::masked_fill.Tensor": pointwise((0, 2)),
    "aten::mul.Scalar": _SCALE,
    "aten::mul.Tensor": _MUL,
    "aten::native_dropout_backward": _SCALE,
    "aten::neg": _SCALE,
    "aten::one_hot": einsum("... -> ... n!"),
    "aten::polar": _SCALE,
    "aten::positive": pointwise(moves=True),
    "aten::prelu": Entry(prelu_rule),
    "aten::rad2deg": _SCALE,
    "aten::rrelu": Entry(rrelu_rule),
    "aten::rsub.Scalar": pointwise((0,), when=_is_zero("other")),
    "aten::rsub.Tensor": _ADD,
    "aten::sigmoid_backward": _SCALE,
    "aten::silu_backward": _SCALE,
    "aten::special_ndtr": _PLAIN,
    "aten::sub.Scalar": pointwise((0,), when=_is_zero("other")),
    "aten::sub.Tensor": _ADD,
    "aten::tanh_backward": _SCALE,
    "aten::threshold_backward": _SCALE,
    "aten::where.Scalar": _PLAIN,
    "aten::where.ScalarOther": pointwise((1,), when=_is_zero("other")),
    "aten::where.ScalarSelf": pointwise((1,), when=_is_zero("self")),
    "aten::where.self": pointwise((1, 2)),
    "aten::zero": _PLAIN,
}

UNSUPPORTED: dict[str, str] = {
    "aten::where.default": "how many indices it finds is not known before the program runs",
}
