"""The operands that operators are said not to read: every one of them called with other values there."""

import pytest
import torch

from shardwright.rules.call import bind_arguments
from shardwright.rules.metadata import METADATA, metadata_arguments
from tests.support.harness import aten, ints, is_operator, t

PLANE, VOLUME = t(2, 3, 4, 6), t(2, 3, 4, 4, 6)
CALLS = {
    "aten::_adaptive_avg_pool2d_backward": (aten._adaptive_avg_pool2d_backward.default, t(2, 3, 2, 2), PLANE),
    "aten::_adaptive_avg_pool3d_backward": (aten._adaptive_avg_pool3d_backward.default, t(2, 3, 2, 2, 2), VOLUME),
    "aten::_assert_tensor_metadata": (aten._assert_tensor_metadata.default, PLANE),
    "aten::_shape_as_tensor": (aten._shape_as_tensor.default, PLANE),
    "aten::adaptive_max_pool2d_backward": (
        aten.adaptive_max_pool2d_backward.default,
        t(2, 3, 2, 2),
        PLANE,
        ints(24, 2, 3, 2, 2),
    ),
    "aten::adaptive_max_pool3d_backward": (
        aten.adaptive_max_pool3d_backward.default,
        t(2, 3, 2, 2, 2),
        VOLUME,
        ints(96, 2, 3, 2, 2, 2),
    ),
    "aten::avg_pool2d_backward": (
        aten.avg_pool2d_backward.default,
        *(t(2, 3, 2, 3), PLANE, [2], [2], [0], False, True, None),
    ),
    "aten::avg_pool3d_backward": (
        aten.avg_pool3d_backward.default,
        *(t(2, 3, 2, 2, 3), VOLUME, [2], [2], [0], False, True, None),
    ),
    "aten::bernoulli.Tensor": (aten.bernoulli.Tensor, t(4, 6), t(4, 6).sigmoid()),
    "aten::bernoulli.p": (aten.bernoulli.p, t(4, 6), 0.4),
    "aten::cauchy": (aten.cauchy.default, t(4, 6)),
    "aten::copy.default": (aten.copy.default, t(4, 6), t(6)),
    "aten::empty_like": (aten.empty_like.default, t(4, 6)),
    "aten::expand_as": (aten.expand_as.default, t(6), t(4, 6)),
    "aten::exponential": (aten.exponential.default, t(4, 6)),
    "aten::fill.Scalar": (aten.fill.Scalar, t(4, 6), 2.0),
    "aten::fill.Tensor": (aten.fill.Tensor, t(4, 6), t()),
    "aten::full_like": (aten.full_like.default, t(4, 6), 2.0),
    "aten::geometric": (aten.geometric.default, t(4, 6), 0.4),
    "aten::log_normal": (aten.log_normal.default, t(4, 6)),
    "aten::max_pool2d_with_indices_backward": (
        aten.max_pool2d_with_indices_backward.default,
        *(t(2, 3, 2, 3), PLANE, [2], [2], [0], [1], False, ints(24, 2, 3, 2, 3)),
    ),
    "aten::max_pool3d_with_indices_backward": (
        aten.max_pool3d_with_indices_backward.default,
        *(t(2, 3, 2, 2, 3), VOLUME, [2], [2], [0], [1], False, ints(96, 2, 3, 2, 2, 3)),
    ),
    "aten::new_empty": (aten.new_empty.default, t(4, 6), [3]),
    "aten::new_empty_strided": (aten.new_empty_strided.default, t(4, 6), [3], [1]),
    "aten::new_full": (aten.new_full.default, t(4, 6), [3], 2.0),
    "aten::new_ones": (aten.new_ones.default, t(4, 6), [3]),
    "aten::new_zeros": (aten.new_zeros.default, t(4, 6), [3]),
    "aten::normal_functional": (aten.normal_functional.default, t(4, 6)),
    "aten::ones_like": (aten.ones_like.default, t(4, 6)),
    "aten::rand_like": (aten.rand_like.default, t(4, 6)),
    "aten::randint_like": (aten.randint_like.default, t(4, 6), 9),
    "aten::randn_like": (aten.randn_like.default, t(4, 6)),
    "aten::random": (aten.random.to, t(4, 6), 9),
    "aten::reflection_pad1d_backward": (aten.reflection_pad1d_backward.default, t(2, 3, 8), t(2, 3, 6), [1, 1]),
    "aten::reflection_pad2d_backward": (aten.reflection_pad2d_backward.default, t(2, 3, 6, 8), PLANE, [1] * 4),
    "aten::reflection_pad3d_backward": (aten.reflection_pad3d_backward.default, t(2, 3, 6, 6, 8), VOLUME, [1] * 6),
    "aten::replication_pad1d_backward": (aten.replication_pad1d_backward.default, t(2, 3, 8), t(2, 3, 6), [1, 1]),
    "aten::replication_pad2d_backward": (aten.replication_pad2d_backward.default, t(2, 3, 6, 8), PLANE, [1] * 4),
    "aten::replication_pad3d_backward": (aten.replication_pad3d_backward.default, t(2, 3, 6, 6, 8), VOLUME, [1] * 6),
    "aten::reshape_as": (aten.reshape_as.default, t(4, 6), t(8, 3)),
    "aten::sym_size": (aten.sym_size.int, t(4, 6), 1),
    "aten::to.other": (aten.to.other, t(4, 6), t(3).half()),
    "aten::type_as": (aten.type_as.default, t(4, 6), t(3).half()),
    "aten::uniform": (aten.uniform.default, t(4, 6)),
    "aten::view_as": (aten.view_as.default, t(4, 6), t(8, 3)),
    "aten::zero": (aten.zero.default, t(4, 6)),
    "aten::zeros_like": (aten.zeros_like.default, t(4, 6)),
}


def result_of(op, arguments):
    torch.manual_seed(0)
    result = op(**arguments)
    is_drawn_from_memory = "empty" in op._schema.name
    return result.shape if is_drawn_from_memory else result


@pytest.mark.parametrize("name", CALLS)
def test_other_values_give_the_same(name):
    op, *args = CALLS[name]
    arguments = bind_arguments(op, args, {})
    unread = metadata_arguments(op)
    assert unread
    assert unread == METADATA[name]
    for argument in unread:
        given = arguments[argument]
        others = {**arguments, argument: (given * -3 + 7).to(given.dtype)}
        first, second = result_of(op, arguments), result_of(op, others)
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def test_every_entry_is_called():
    assert list(CALLS) == list(METADATA) == sorted(METADATA)
    assert all(is_operator(name) for name in METADATA)
