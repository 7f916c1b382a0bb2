"""Sample calls for every operator of `shardwright.rules.operators.pointwise`."""

import torch

from tests.support.harness import SHAPES, aten, binary, ints, positive, t, unary


def bits(op, *, scalar=True):
    """Integers with integers, and with a number."""
    found = [(op.Tensor, (ints(9, 4, 6), ints(3, 6)), {}), (op.Tensor, (ints(9, 5, 6), ints(3, 5, 1)), {})]
    return [*found, (op.Scalar, (ints(9, 5, 6), 2), {})]


def quotients(op, **kwargs):
    """Two float tensors, the divisors away from zero; integers; and a number."""
    shapes = [(shape, shape) for shape in SHAPES] + [((4, 8, 12), (12,)), ((6, 4), ()), ((4, 1, 6), (8, 1))]
    found = [(op, (t(*a), positive(*b)), kwargs) for a, b in shapes]
    return [*found, (op, (ints(9, 4, 6), ints(3, 6) + 1), kwargs), (op, (t(4, 6), 3.0), kwargs)]


def products(op):
    """Two tensors, one tensor twice, of several dtypes, and of whole numbers."""
    same = t(4, 6)
    return [
        *binary(op),
        (op, (same, same), {}),
        (op, (t(4, 6), t(6).double()), {}),
        (op, (ints(9, 4, 6), t(6)), {}),
        (op, (ints(9, 4, 6), ints(7, 6)), {}),
    ]


def sums(op):
    """As products, and with a factor for the second."""
    return [*products(op), *binary(op, alpha=2)]


def numbers(op):
    """A tensor and a number: zero, and not."""
    return [*unary(op, 1.5), (op, (t(4, 6), 0), {})]


def modes(op, other):
    return [
        (op, (t(4, 6), other), {"rounding_mode": "floor"}),
        (op, (t(5, 6), other), {"rounding_mode": None}),
        (op, (t(5, 6), other), {"rounding_mode": "trunc"}),
    ]


def masks(value):
    return [
        (t(4, 8, 6), t(8, 6) > 0, value),
        (t(4, 8, 6), t(4, 1, 6) > 0, value),
        (t(5, 7), t(5, 7, seed=3) > 0, value),
    ]


def dropouts(op):
    """Out of training, and in training with nothing to drop."""
    return [*unary(op, 0.5, False), (op, (t(4, 6, 3), 0.0, True), {})]


SAMPLES = {
    "aten::__lshift__": bits(aten.__lshift__),
    "aten::__rshift__": bits(aten.__rshift__),
    "aten::_prelu_kernel": [
        (aten._prelu_kernel.default, (t(4, 8, 6), t(1, 8, 1)), {}),
        (aten._prelu_kernel.default, (t(3, 5), t(1, 1)), {}),
    ],
    "aten::add.Scalar": numbers(aten.add.Scalar),
    "aten::add.Tensor": [*sums(aten.add.Tensor), *unary(aten.add.Tensor, 1.5)],
    "aten::addcdiv": [
        (aten.addcdiv.default, (t(4, 6), t(6), positive(4, 1)), {"value": 0.5}),
        (aten.addcdiv.default, (t(5, 7), t(5, 7), positive(5, 7)), {}),
    ],
    "aten::addcmul": [
        (aten.addcmul.default, (t(4, 6), t(6), t(4, 1)), {"value": 0.5}),
        (aten.addcmul.default, (t(5, 7), t(5, 7), t(5, 7)), {}),
    ],
    "aten::alpha_dropout": dropouts(aten.alpha_dropout.default),
    "aten::deg2rad": unary(aten.deg2rad.default),
    "aten::div.Scalar": unary(aten.div.Scalar, 3),
    "aten::div.Scalar_mode": modes(aten.div.Scalar_mode, 2.0),
    "aten::div.Tensor": quotients(aten.div.Tensor),
    "aten::div.Tensor_mode": modes(aten.div.Tensor_mode, positive(6)),
    "aten::dropout": dropouts(aten.dropout.default),
    "aten::feature_alpha_dropout": dropouts(aten.feature_alpha_dropout.default),
    "aten::feature_dropout": dropouts(aten.feature_dropout.default),
    "aten::fill.Scalar": unary(aten.fill.Scalar, 2.0),
    "aten::floor_divide": [*quotients(aten.floor_divide.default), *unary(aten.floor_divide.Scalar, 2)],
    "aten::gelu_backward": binary(aten.gelu_backward.default)[:3],
    "aten::glu": [
        (aten.glu.default, (t(4, 6, 16),), {}),
        (aten.glu.default, (t(4, 6, 5), 1), {}),
        (aten.glu.default, (t(10),), {}),
    ],
    "aten::hardswish": unary(aten.hardswish.default),
    "aten::isclose": binary(aten.isclose.default),
    "aten::isreal": unary(aten.isreal.default),
    "aten::ldexp.Tensor": [(aten.ldexp.Tensor, (t(4, 6), ints(4, 6)), {}), (aten.ldexp.Tensor, (t(5), ints(4, 5)), {})],
    "aten::lerp.Scalar": [(aten.lerp.Scalar, (t(4, 6), t(4, 6, seed=2), 0.3), {})],
    "aten::lerp.Tensor": [
        (aten.lerp.Tensor, (t(4, 6), t(4, 6, seed=2), t(6)), {}),
        (aten.lerp.Tensor, (t(5, 7), t(1, 7, seed=2), t()), {}),
    ],
    "aten::log_sigmoid": unary(aten.log_sigmoid.default),
    "aten::log_sigmoid_backward": [
        (
            aten.log_sigmoid_backward.default,
            (t(*s), t(*s, seed=1), aten.log_sigmoid_forward.default(t(*s, seed=1))[1]),
            {},
        )
        for s in SHAPES
    ],
    "aten::log_sigmoid_forward": unary(aten.log_sigmoid_forward.default),
    "aten::masked_fill.Scalar": [
        *((aten.masked_fill.Scalar, args, {}) for args in masks(0)),
        *((aten.masked_fill.Scalar, args, {}) for args in masks(-1e4)),
    ],
    "aten::masked_fill.Tensor": [(aten.masked_fill.Tensor, args, {}) for args in masks(t())],
    "aten::mul.Scalar": unary(aten.mul.Scalar, 3),
    "aten::mul.Tensor": [
        *products(aten.mul.Tensor),
        *unary(aten.mul.Tensor, 2.0),
        (aten.mul.Tensor, (t(4, 6), ints(2, 4, 6) > 0), {}),
    ],
    "aten::native_dropout_backward": [(aten.native_dropout_backward.default, (t(4, 6), t(4, 6) > 0, 2.0), {})],
    "aten::neg": [*unary(aten.neg.default), (aten.neg.default, (ints(9, 4, 6),), {})],
    "aten::one_hot": [(aten.one_hot.default, (ints(4, 3, 5), 4), {}), (aten.one_hot.default, (ints(4, 6), 5), {})],
    "aten::polar": binary(aten.polar.default),
    "aten::positive": unary(aten.positive.default),
    "aten::prelu": [
        (aten.prelu.default, (t(4, 8, 6), t(8)), {}),
        (aten.prelu.default, (t(3, 5), t(1)), {}),
        (aten.prelu.default, (t(3, 5), t()), {}),
        (aten.prelu.default, (t(6), t(1)), {}),
    ],
    "aten::rad2deg": unary(aten.rad2deg.default),
    "aten::rrelu": unary(aten.rrelu.default),
    "aten::rsub.Scalar": numbers(aten.rsub.Scalar),
    "aten::rsub.Tensor": sums(aten.rsub.Tensor),
    "aten::sigmoid_backward": binary(aten.sigmoid_backward.default)[:3],
    "aten::silu_backward": binary(aten.silu_backward.default)[:3],
    "aten::special_ndtr": unary(aten.special_ndtr.default),
    "aten::sub.Scalar": numbers(aten.sub.Scalar),
    "aten::sub.Tensor": [*sums(aten.sub.Tensor), *unary(aten.sub.Tensor, 1.5)],
    "aten::tanh_backward": binary(aten.tanh_backward.default)[:3],
    "aten::threshold_backward": [
        (op, args, {}) for op, args, _ in unary(aten.threshold_backward.default, t(1, 1, 1), 0.1)
    ],
    "aten::where.Scalar": [(aten.where.Scalar, (t(4, 6) > 0, 1.0, 0.0), {})],
    "aten::where.ScalarOther": [(aten.where.ScalarOther, (t(4, 6) > 0, t(6), v), {}) for v in (0, 0.5)],
    "aten::where.ScalarSelf": [(aten.where.ScalarSelf, (t(4, 6) > 0, v, t(4, 1)), {}) for v in (0, 0.5)],
    "aten::where.self": [
        (aten.where.self, (t(4, 8) > 0, t(4, 8), t(8)), {}),
        (aten.where.self, (t(5, 1) > 0, t(5, 7), t()), {}),
        (aten.where.self, (t(5, 1) > 0, t(5, 7), t().double()), {}),
        (aten.where.self, (t(5, 7) > 0, ints(9, 5, 7), ints(9, 7)), {}),
        (aten.where.self, (t(5, 7) > 0, t(5, 7) > 1, t(7) > 0), {}),
    ],
    "aten::zero": unary(aten.zero.default),
}


def plain_samples():
    """A sample of every overload torch tags pointwise and whose arguments we can guess: the fallback's share."""
    found = {}
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads() if hasattr(packet, "overloads") else ():
            op = getattr(packet, overload)
            if torch.Tag.pointwise not in op.tags or op._schema.is_mutable or "out" in overload:
                continue
            for make in (positive, lambda *shape: ints(4, *shape) + 1):
                args = guess(op, make)
                try:
                    op(*args)
                except (RuntimeError, TypeError, NotImplementedError):
                    continue
                found[str(op)] = (op, args)
                break
    return found


def guess(op, make):
    """Arguments without a default: tensors of shapes that broadcast, and small numbers."""
    shapes = iter([(4, 6), (6,), (4, 1)])
    required = [a for a in op._schema.arguments if not a.has_default_value()]
    return tuple(make(*next(shapes)) if "Tensor" in str(a.type) else 1 for a in required)
