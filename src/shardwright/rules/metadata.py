"""Operands whose values are never read: ``x.type_as(y)`` asks ``y`` for its dtype, ``zeros_like(y)`` for its sizes.

Such an operand is never moved: whatever layout it lies in, cut, partial or whole, every rank knows its dtype and its
sizes. That is a property of the operator rather than of one call, and holds for operators without a rule too (what
`rand_like` draws is drawn whole on every rank, from sizes alone).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from shardwright.rules.registry import op_names

DTYPE, SIZES = "dtype", "sizes"
"""What is read: dtype and device, for which any rank's piece will do; or the sizes too."""

_SELF, _OTHER = {"self": SIZES}, {"other": SIZES}

METADATA: dict[str, Mapping[str, str]] = {
    "aten::_adaptive_avg_pool2d_backward": _SELF,
    "aten::_adaptive_avg_pool3d_backward": _SELF,
    "aten::_assert_tensor_metadata": {"a": SIZES},
    "aten::_shape_as_tensor": _SELF,
    "aten::adaptive_max_pool2d_backward": _SELF,
    "aten::adaptive_max_pool3d_backward": _SELF,
    "aten::avg_pool2d_backward": _SELF,
    "aten::avg_pool3d_backward": _SELF,
    "aten::bernoulli.Tensor": _SELF,
    "aten::bernoulli.p": _SELF,
    "aten::cauchy": _SELF,
    "aten::copy.default": _SELF,
    "aten::empty_like": _SELF,
    "aten::expand_as": _OTHER,
    "aten::exponential": _SELF,
    "aten::fill.Scalar": _SELF,
    "aten::fill.Tensor": _SELF,
    "aten::full_like": _SELF,
    "aten::geometric": _SELF,
    "aten::log_normal": _SELF,
    "aten::max_pool2d_with_indices_backward": _SELF,
    "aten::max_pool3d_with_indices_backward": _SELF,
    "aten::new_empty": {"self": DTYPE},
    "aten::new_empty_strided": {"self": DTYPE},
    "aten::new_full": {"self": DTYPE},
    "aten::new_ones": {"self": DTYPE},
    "aten::new_zeros": {"self": DTYPE},
    "aten::normal_functional": _SELF,
    "aten::ones_like": _SELF,
    "aten::rand_like": _SELF,
    "aten::randint_like": _SELF,
    "aten::randn_like": _SELF,
    "aten::random": _SELF,
    "aten::reflection_pad1d_backward": _SELF,
    "aten::reflection_pad2d_backward": _SELF,
    "aten::reflection_pad3d_backward": _SELF,
    "aten::replication_pad1d_backward": _SELF,
    "aten::replication_pad2d_backward": _SELF,
    "aten::replication_pad3d_backward": _SELF,
    "aten::reshape_as": _OTHER,
    "aten::sym_size": _SELF,
    "aten::to.other": {"other": DTYPE},
    "aten::type_as": {"other": DTYPE},
    "aten::uniform": _SELF,
    "aten::view_as": _OTHER,
    "aten::zero": _SELF,
    "aten::zeros_like": _SELF,
}


@lru_cache(maxsize=4096)
def metadata_arguments(op: Any) -> Mapping[str, str]:
    """The arguments of an operator whose values are not read, and what is used of each: `DTYPE` or `SIZES`."""
    return next((METADATA[name] for name in op_names(op) if name in METADATA), {})
