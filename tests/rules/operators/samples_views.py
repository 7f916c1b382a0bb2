"""Sample calls for every operator of `shardwright.rules.operators.views`."""

import torch

from tests.support.harness import SHAPES, aten, t, unary

SQUARE = ((4, 6), (3, 5), (1, 6))


def matrices(op):
    return [(op, (t(*shape),), {}) for shape in SQUARE]


def reshapes(op, *, minus_one=True):
    """Heads split off and joined, dims of size 1, -1, shapes that share some factors, one dim or nothing."""
    found = [
        (t(4, 6, 8), [24, 8]),
        (t(4, 6, 8), [4, 48]),
        (t(3, 5, 8), [3, 5, 2, 4]),
        (t(2, 3, 20), [2, 3, 5, 4]),
        (t(2, 48), [2, 6, 8]),
        (t(6, 4), [4, 6]),
        (t(2, 6, 4, 3), [2, 4, 6, 3]),
        (t(6, 4, 5), [4, 30]),
        (t(3, 4), [4, 3]),
        (t(2, 4, 1, 3), [2, 1, 12]),
        (t(4, 6), [24]),
        (t(3, 0, 4), [0, 12]),
        (t(1, 1), []),
    ]
    if minus_one:
        found += [(t(4, 6, 8), [-1, 8]), (t(4, 6, 8), [4, -1]), (t(5, 6), [5, -1, 2]), (t(3, 4), [-1])]
    return [(op, args, {}) for args in found]


def squeezes(packet):
    return [
        (packet.default, (t(4, 1, 6),), {}),
        (packet.default, (t(1, 4, 3),), {}),
        (packet.default, (t(1, 1),), {}),
        (packet.dim, (t(4, 1, 6), 1), {}),
        (packet.dim, (t(4, 2, 6), 1), {}),
        (packet.dim, (t(4, 1), -1), {}),
        (packet.dims, (t(1, 4, 1), [0, 2]), {}),
        (packet.dims, (t(1, 4, 2), [-1, 0]), {}),
    ]


def movedims(packet):
    return [*unary(packet.int, 0, 2), *unary(packet.int, -1, 0), *unary(packet.intlist, [0, 1], [1, 2])]


def complexes(*shape):
    return torch.complex(t(*shape), t(*shape, seed=1))


def unsqueezes(op):
    return [*unary(op, 1), *unary(op, -1), (op, (t(), 0), {})]


def atleast(op):
    return [(op, (t(*shape),), {}) for shape in ((), (5,), (4, 6), (2, 4, 3))]


SAMPLES = {
    "aten::_reshape_alias": [(aten._reshape_alias.default, (t(4, 6, 8), [24, 8], [8, 1]), {})],
    "aten::_reshape_alias_copy": [(aten._reshape_alias_copy.default, (t(4, 6, 8), [4, 48], [48, 1]), {})],
    "aten::_reshape_copy": reshapes(aten._reshape_copy.default),
    "aten::_unsafe_view": reshapes(aten._unsafe_view.default),
    "aten::adjoint": [*unary(aten.adjoint.default), (aten.adjoint.default, (complexes(4, 6),), {})],
    "aten::atleast_1d": atleast(aten.atleast_1d.default),
    "aten::atleast_2d": atleast(aten.atleast_2d.default),
    "aten::atleast_3d": atleast(aten.atleast_3d.default),
    "aten::flatten.using_ints": [
        (aten.flatten.using_ints, (t(*s), a, b), {}) for s in SHAPES for a, b in ((0, -1), (1, 2), (0, 1), (1, 1))
    ],
    "aten::mH": [*unary(aten.mH.default), (aten.mH.default, (complexes(4, 6),), {})],
    "aten::mT": unary(aten.mT.default),
    "aten::matrix_H": [*matrices(aten.matrix_H.default), (aten.matrix_H.default, (complexes(4, 6),), {})],
    "aten::movedim.int": movedims(aten.movedim)[:6],
    "aten::movedim.intlist": movedims(aten.movedim)[6:],
    "aten::numpy_T": [*unary(aten.numpy_T.default)],
    "aten::permute": [*unary(aten.permute.default, [2, 0, 1]), *unary(aten.permute.default, [-1, 1, 0])],
    "aten::permute_copy": unary(aten.permute_copy.default, [0, 2, 1]),
    "aten::ravel": unary(aten.ravel.default),
    "aten::reshape": reshapes(aten.reshape.default),
    "aten::reshape_as": [
        (aten.reshape_as.default, (t(4, 6), t(24)), {}),
        (aten.reshape_as.default, (t(4, 6), t(4, 2, 3)), {}),
    ],
    "aten::squeeze": squeezes(aten.squeeze),
    "aten::squeeze_copy": squeezes(aten.squeeze_copy),
    "aten::t": [*matrices(aten.t.default), (aten.t.default, (t(5),), {})],
    "aten::t_copy": matrices(aten.t_copy.default),
    "aten::transpose.int": [*unary(aten.transpose.int, -1, 1), *unary(aten.transpose.int, 0, 0)],
    "aten::transpose_copy.int": unary(aten.transpose_copy.int, 0, 1),
    "aten::unflatten.int": [
        (aten.unflatten.int, (t(2, 12, 3), 1, [4, 3]), {}),
        (aten.unflatten.int, (t(3, 10), -1, [-1, 2]), {}),
        (aten.unflatten.int, (t(3, 12), 1, [2, -1, 2]), {}),
        (aten.unflatten.int, (t(3, 12), 1, [1, -1]), {}),
    ],
    "aten::unsqueeze": unsqueezes(aten.unsqueeze.default),
    "aten::unsqueeze_copy": unsqueezes(aten.unsqueeze_copy.default),
    "aten::view": reshapes(aten.view.default),
    "aten::view.dtype": [
        (aten.view.dtype, (t(4, 6), torch.int32), {}),
        (aten.view.dtype, (t(4, 6), torch.int16), {}),
        (aten.view.dtype, (t(5, 6), torch.int64), {}),
        (aten.view.dtype, (t(), torch.int32), {}),
    ],
    "aten::view_as": [(aten.view_as.default, (t(4, 6), t(24)), {}), (aten.view_as.default, (t(15), t(3, 5)), {})],
    "aten::view_as_complex": [(aten.view_as_complex.default, (t(4, 6, 2),), {})],
    "aten::view_as_complex_copy": [(aten.view_as_complex_copy.default, (t(3, 5, 2),), {})],
    "aten::view_as_real": [(aten.view_as_real.default, (complexes(4, 6),), {})],
    "aten::view_as_real_copy": [(aten.view_as_real_copy.default, (complexes(3, 5),), {})],
    "aten::view_copy": reshapes(aten.view_copy.default),
    "aten::view_copy.dtype": [(aten.view_copy.dtype, (t(4, 6), torch.int32), {})],
}
