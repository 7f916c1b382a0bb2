"""The form a value has while it is sent: what every backend takes, and the value again, to the bit (see `backends`)."""

from typing import Any

import torch
from torch import fx

from shardwright.errors import ProgramError
from shardwright.partition.emit import Emitter
from shardwright.program.backends import Form, form_of
from shardwright.program.collectives import CollectiveKind
from shardwright.program.nodes import describe_node

aten = torch.ops.aten


def form_for(node: fx.Node, kind: CollectiveKind, op: str = "") -> Form:
    """The form in which the operand of the collective ``node`` is sent; `ProgramError` where no backend takes it."""
    value: Any = node.args[0]
    dtype = value.meta["val"].dtype
    form = form_of(kind, dtype, op)
    if form is None:
        what = f"{kind} ({op})" if op else kind
        raise ProgramError(
            f"{_place(node, value)}: no backend of torch.distributed takes {what} of {dtype}\n"
            "  try: convert it to another dtype in the model before it, or pin it Replicate() in the plan"
        )
    return form


def _place(node: fx.Node, value: fx.Node) -> str:
    record = node.meta.get("collective")
    if record is None:
        return describe_node(value)
    where = f" in {record.module!r}" if record.module else ""
    return record.node + where + (f" at {record.source}" if record.source else "")


def pack(emit: Emitter, x: fx.Node, form: Form) -> fx.Node:
    """``x`` as it is sent; dims keep their numbers."""
    if form.how == "itself":
        return x
    if form.how == "reals":
        # What is conjugate in name only has no reals to view.
        return emit.call(aten.view_as_real.default, emit.call(aten.resolve_conj.default, x))
    if form.how == "cast":
        return _cast(emit, x, form.dtype)
    if form.how == "ordered":
        return _keys(emit, x, form)
    if form.how == "bytes":
        # The bytes of an element as a dim: a last dim of 1 may have any stride, and views ask for a stride of 1.
        x = emit.call(aten.unsqueeze.default, x, -1)
    return emit.call(aten.view.dtype, x, form.dtype)


def unpack(emit: Emitter, sent: fx.Node, form: Form, dtype: torch.dtype) -> fx.Node:
    """The inverse of `pack`, of what a collective gave."""
    if form.how == "itself":
        return sent
    if form.how == "reals":
        return emit.call(aten.view_as_complex.default, sent)
    if form.how == "cast":
        return _cast(emit, sent, dtype)
    if form.how == "ordered":
        return _numbers(emit, sent, dtype)
    whole = emit.call(aten.view.dtype, sent, dtype)
    return emit.call(aten.squeeze.dim, whole, -1) if form.how == "bytes" else whole


def _keys(emit: Emitter, x: fx.Node, form: Form) -> fx.Node:
    """Integers in the order of floating-point numbers, of which NaN are the largest for a maximum, the least for a
    minimum.

    The bits of a number are its sign and its size; where the sign is set, the other bits are turned over, so that
    larger sizes come earlier.
    """
    wide = _cast(emit, x, _float_of(form.dtype))
    bits = emit.call(aten.view.dtype, wide, form.dtype)
    info = torch.iinfo(form.dtype)
    last = info.max if form.op == "max" else info.min
    return emit.call(aten.masked_fill.Scalar, _turn(emit, bits), emit.call(aten.isnan.default, wide), last)


def _numbers(emit: Emitter, keys: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The numbers that `_keys` were made of; the first and the last key are NaN as bits, too."""
    wide = _float_of(keys.meta["val"].dtype)
    return _cast(emit, emit.call(aten.view.dtype, _turn(emit, keys), wide), dtype)


def _turn(emit: Emitter, bits: fx.Node) -> fx.Node:
    """All bits but the sign turned over where the sign is set: its own inverse."""
    info = torch.iinfo(bits.meta["val"].dtype)
    signs = emit.call(aten.bitwise_right_shift.Tensor_Scalar, bits, info.bits - 1)
    return emit.call(aten.bitwise_xor.Tensor, bits, emit.call(aten.bitwise_and.Scalar, signs, info.max))


def _float_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.int64 else torch.float32


def _cast(emit: Emitter, x: fx.Node, dtype: torch.dtype) -> fx.Node:
    return x if x.meta["val"].dtype == dtype else emit.call(aten._to_copy.default, x, dtype=dtype)
