"""Sample calls for every operator of `shardwright.rules.pointwise`."""

import torch

from tests.rules.harness import aten, binary, ints, t, unary

SAMPLES = {
    "aten::one_hot": [(aten.one_hot.default, (ints(4, 3, 5), 4), {})],
    "aten::__and__": [(aten.__and__.Tensor, (ints(9, 4, 6), ints(9, 6)), {})],
    "aten::__lshift__": [(aten.__lshift__.Tensor, (ints(9, 4, 6), ints(3, 6)), {})],
    "aten::__or__": [
        (aten.__or__.Tensor, (ints(9, 4, 6), ints(9, 6)), {}),
        (aten.__or__.Scalar, (ints(9, 5, 6), 3), {}),
    ],
    "aten::__rshift__": [(aten.__rshift__.Tensor, (ints(9, 4, 6), ints(3, 6)), {})],
    "aten::__xor__": [(aten.__xor__.Tensor, (ints(9, 4, 6), ints(9, 4, 1)), {})],
    "aten::_conj": [(aten._conj.default, (torch.complex(t(4, 6), t(4, 6)),), {})],
    "aten::_to_copy": [
        *unary(aten._to_copy.default, dtype=torch.float64),
        *unary(aten._to_copy.default, dtype=torch.long),
    ],
    "aten::add.Tensor": [*binary(aten.add.Tensor), *binary(aten.add.Tensor, alpha=2), *unary(aten.add.Tensor, 1.5)],
    "aten::alias": unary(aten.alias.default),
    "aten::alias_copy": unary(aten.alias_copy.default),
    "aten::clone": unary(aten.clone.default, memory_format=torch.contiguous_format),
    "aten::contiguous": unary(aten.contiguous.default),
    "aten::copy": binary(aten.copy.default)[:4],
    "aten::detach": unary(aten.detach.default),
    "aten::detach_copy": unary(aten.detach_copy.default),
    "aten::div.Scalar": unary(aten.div.Scalar, 3),
    "aten::div.Tensor": [
        *binary(aten.div.Tensor),
        *unary(aten.div.Tensor, 4.0),
        (aten.div.Tensor, (ints(9, 4, 6), 2), {}),
    ],
    "aten::div.Tensor_mode": [
        (aten.div.Tensor_mode, (t(4, 6), t(6)), {"rounding_mode": "floor"}),
        (aten.div.Tensor_mode, (t(4, 6), t(6)), {"rounding_mode": None}),
    ],
    "aten::divide.Tensor": binary(aten.divide.Tensor),
    "aten::dropout": unary(aten.dropout.default, 0.5, False),
    "aten::lift_fresh_copy": unary(aten.lift_fresh_copy.default),
    "aten::masked_fill.Scalar": [
        (aten.masked_fill.Scalar, (t(4, 8, 6), t(8, 6) > 0, 0), {}),
        (aten.masked_fill.Scalar, (t(4, 8, 6), t(4, 1, 6) > 0, -1e4), {}),
    ],
    "aten::mul.Scalar": unary(aten.mul.Scalar, 3),
    "aten::mul.Tensor": [*binary(aten.mul.Tensor), *unary(aten.mul.Tensor, 2.0)],
    "aten::multiply.Tensor": binary(aten.multiply.Tensor),
    "aten::native_dropout": unary(aten.native_dropout.default, 0.5, False),
    "aten::neg": unary(aten.neg.default),
    "aten::negative": unary(aten.negative.default),
    "aten::rsub.Tensor": binary(aten.rsub.Tensor),
    "aten::sub.Tensor": [*binary(aten.sub.Tensor), *unary(aten.sub.Tensor, 1.5)],
    "aten::subtract.Tensor": binary(aten.subtract.Tensor),
    "aten::to.device": unary(aten.to.device, torch.device("cpu"), torch.float64),
    "aten::to.dtype": [*unary(aten.to.dtype, torch.float64), *unary(aten.to.dtype, torch.bool)],
    "aten::to.dtype_layout": unary(aten.to.dtype_layout, dtype=torch.float64),
    "aten::to.other": [(aten.to.other, (t(4, 6), t(3).double()), {})],
    "aten::type_as": [(aten.type_as.default, (t(5, 6), t(4, 2).double()), {})],
    "aten::where.self": [
        (aten.where.self, (t(4, 8) > 0, t(4, 8), t(8)), {}),
        (aten.where.self, (t(5, 1) > 0, t(5, 7), t()), {}),
    ],
}
