"""Sample calls for every operator of `shardwright.rules.operators.copies`."""

import torch

from tests.support.harness import aten, binary, ints, t, unary


def complexes(*shape):
    return torch.complex(t(*shape), t(*shape, seed=1))


def casts(op, *before, **kwargs):
    """To a wider float, to a narrower one, to integers, to booleans; from integers."""
    found = [
        case
        for dtype in (torch.float64, torch.bfloat16, torch.complex32, torch.long, torch.bool)
        for case in unary(op, *before, dtype)
    ]
    return [
        *found,
        (op, (ints(9, 5, 6), *before, torch.float32), kwargs),
        (op, (ints(9, 5, 6), *before, torch.int64), {}),
    ]


def parts(op):
    """Of real and complex numbers."""
    return [*unary(op), (op, (complexes(4, 6),), {}), (op, (complexes(3, 5),), {})]


def named(op, **kwargs):
    """A cast whose dtype is a keyword."""
    return [(op, (t(4, 6),), {"dtype": dtype, **kwargs}) for dtype in (torch.float64, torch.half, torch.int32)]


SAMPLES = {
    "aten::_autocast_to_full_precision": [
        (aten._autocast_to_full_precision.default, (ints(9, 4, 6).bfloat16(), True, True), {})
    ],
    "aten::_autocast_to_reduced_precision": [
        (
            aten._autocast_to_reduced_precision.default,
            (t(4, 6), True, True, torch.bfloat16, torch.bfloat16),
            {},
        )
    ],
    "aten::_conj": parts(aten._conj.default)[3:],
    "aten::_conj_copy": parts(aten._conj_copy.default)[3:],
    "aten::_conj_physical": parts(aten._conj_physical.default)[3:],
    "aten::_neg_view": parts(aten._neg_view.default),
    "aten::_neg_view_copy": unary(aten._neg_view_copy.default),
    "aten::_to_copy": [*named(aten._to_copy.default), *unary(aten._to_copy.default)],
    "aten::alias": unary(aten.alias.default),
    "aten::alias_copy": unary(aten.alias_copy.default),
    "aten::clone": [
        *unary(aten.clone.default, memory_format=torch.contiguous_format),
        (aten.clone.default, (ints(9, 4, 6),), {}),
        (aten.clone.default, (ints(2, 4, 6) > 0,), {}),
    ],
    "aten::complex": binary(aten.complex.default),
    "aten::conj": parts(aten.conj.default),
    "aten::conj_physical": parts(aten.conj_physical.default),
    "aten::contiguous": [
        *unary(aten.contiguous.default),
        (aten.contiguous.default, (t(2, 4, 6, 3),), {"memory_format": torch.channels_last}),
    ],
    "aten::copy.default": [
        *[
            case
            for case in binary(aten.copy.default)
            if case[1][0].shape == torch.broadcast_shapes(*(x.shape for x in case[1]))
        ],
        (aten.copy.default, (t(4, 6).double(), t(6)), {}),
        (aten.copy.default, (t(4, 6).half(), t(6)), {}),
        (aten.copy.default, (ints(9, 4, 6), t(4, 6)), {}),
    ],
    "aten::detach": unary(aten.detach.default),
    "aten::detach_copy": unary(aten.detach_copy.default),
    "aten::fill.Tensor": [*unary(aten.fill.Tensor, t()), (aten.fill.Tensor, (ints(9, 4, 6), t()), {})],
    "aten::imag": parts(aten.imag.default)[3:],
    "aten::lift": unary(aten.lift.default),
    "aten::lift_fresh": unary(aten.lift_fresh.default),
    "aten::lift_fresh_copy": unary(aten.lift_fresh_copy.default),
    "aten::real": parts(aten.real.default),
    "aten::resolve_conj": parts(aten.resolve_conj.default),
    "aten::resolve_neg": parts(aten.resolve_neg.default),
    "aten::to.device": unary(aten.to.device, torch.device("cpu"), torch.float64),
    "aten::to.dtype": casts(aten.to.dtype),
    "aten::to.dtype_layout": [*named(aten.to.dtype_layout), *named(aten.to.dtype_layout, device=torch.device("cpu"))],
    "aten::to.other": [(aten.to.other, (t(4, 6), t(3).double()), {}), (aten.to.other, (t(4, 6), t(4, 6).half()), {})],
    "aten::to.prim_Device": unary(aten.to.prim_Device, torch.device("cpu")),
    "aten::to.prim_dtype": unary(aten.to.prim_dtype, torch.float64),
    "aten::to.prim_other": unary(aten.to.prim_other),
    "aten::type_as": [
        (aten.type_as.default, (t(5, 6), t(4, 2).double()), {}),
        (aten.type_as.default, (t(5, 6), t(5, 6)), {}),
        (aten.type_as.default, (t(4, 6), t()), {}),
    ],
}
