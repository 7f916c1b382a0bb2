"""Calls that give what they are given, as two tables: operators that give their operand itself, or a copy of it.

They do so where the result has the operand's sizes, strides, dtype and device, and its arguments say nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_Holds = Callable[[fx.Node], bool]


def _always(_: fx.Node) -> bool:
    return True


def _is_inference(node: fx.Node) -> bool:
    """Whether a dropout drops nothing: its arguments are (input, p, train)."""
    p, train = _argument(node, 1, "p"), _argument(node, 2, "train")
    return train is False or p == 0


def _pads_nothing(node: fx.Node) -> bool:
    """Whether all amounts are 0; 1 on one side and -1 on the other would leave the sizes as they are, too."""
    amounts = _argument(node, 1, "pad")
    return all(type(amount) is int and amount == 0 for amount in amounts)


def _starts_at_a_number(node: fx.Node) -> bool:
    return not isinstance(_argument(node, 2, "start"), fx.Node)


def _is_single(node: fx.Node) -> bool:
    tensors = node.args[0]
    return isinstance(tensors, (list, tuple)) and len(tensors) == 1


def _by_one(node: fx.Node) -> bool:
    other = _argument(node, 1, "other")
    return not isinstance(other, (fx.Node, bool)) and other == 1


def _by_zero(node: fx.Node) -> bool:
    """Whether nothing is added; to -0.0, adding 0 gives 0.0, so only integers stay what they are."""
    other, value = _argument(node, 1, "other"), node.meta["val"]
    exact = not value.is_floating_point() and not value.is_complex()
    return exact and not isinstance(other, (fx.Node, bool)) and other == 0


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


VIEWS: Mapping[Any, _Holds] = {
    aten._reshape_alias.default: _always,
    aten._unsafe_view.default: _always,
    aten.alias.default: _always,
    aten.broadcast_to.default: _always,
    aten.detach.default: _always,
    aten.expand.default: _always,
    aten.expand_as.default: _always,
    aten.flatten.using_ints: _always,
    aten.lift_fresh.default: _always,
    aten.movedim.int: _always,
    aten.narrow.default: _starts_at_a_number,
    aten.permute.default: _always,
    aten.reshape.default: _always,
    aten.slice.Tensor: _starts_at_a_number,
    aten.squeeze.default: _always,
    aten.squeeze.dim: _always,
    aten.squeeze.dims: _always,
    aten.t.default: _always,
    aten.transpose.int: _always,
    aten.unflatten.int: _always,
    aten.view.default: _always,
    aten.view_as.default: _always,
}
"""Operators that give their first operand itself."""

COPIES: Mapping[Any, _Holds] = {
    aten._to_copy.default: _always,
    aten.add.Tensor: _by_zero,
    aten.alpha_dropout.default: _is_inference,
    aten.cat.default: _is_single,
    aten.clone.default: _always,
    aten.constant_pad_nd.default: _pads_nothing,
    aten.contiguous.default: _always,
    aten.div.Tensor: _by_one,
    aten.dropout.default: _is_inference,
    aten.expand_copy.default: _always,
    aten.feature_alpha_dropout.default: _is_inference,
    aten.feature_dropout.default: _is_inference,
    aten.lift_fresh_copy.default: _always,
    aten.mul.Tensor: _by_one,
    aten.pad.default: _pads_nothing,
    aten.repeat.default: _always,
    aten.sub.Tensor: _by_zero,
    aten.to.device: _always,
    aten.to.dtype: _always,
    aten.to.dtype_layout: _always,
    aten.to.other: _always,
    aten.type_as.default: _always,
    aten.view_copy.default: _always,
}
"""Operators that give a copy of their first operand, or it itself."""


def operand_of(node: fx.Node) -> fx.Node | None:
    """The operand whose value a call gives, if it does: same sizes, strides, dtype and device; None otherwise."""
    holds = VIEWS.get(node.target) or COPIES.get(node.target)
    if holds is None or not node.args:
        return None
    first: Any = node.args[0]
    source = first[0] if node.target is aten.cat.default and _is_single(node) else first
    if not isinstance(source, fx.Node) or not _are_alike(source.meta.get("val"), node.meta.get("val")):
        return None
    return source if holds(node) else None


def lays_out(node: fx.Node) -> bool:
    """Whether a copy may be there for the sake of how its result lies in memory."""
    asked = node.kwargs.get("memory_format")
    return node.target is aten.contiguous.default or asked not in (None, torch.preserve_format)


def _are_alike(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.dtype != other.dtype:
        return False
    if one.layout != torch.strided or other.layout != torch.strided or one.device != other.device:
        return False
    same_bits = (one.is_conj(), one.is_neg()) == (other.is_conj(), other.is_neg())
    return same_bits and _are_equal(one.shape, other.shape) and _are_equal(one.stride(), other.stride())


def _are_equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    if all(type(size) is int for size in (*one, *other)):
        return tuple(one) == tuple(other)
    # Comparing symbolic sizes would constrain them.
    return [str(size) for size in one] == [str(size) for size in other]
