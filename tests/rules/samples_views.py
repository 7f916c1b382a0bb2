"""Sample calls for every operator of `shardwright.rules.views`."""

import torch

from tests.rules.harness import SHAPES, aten, t


def perm(op, *args):
    return [(op, (t(*shape), *args), {}) for shape in SHAPES]


SAMPLES = {
    "aten::_reshape_alias": [(aten._reshape_alias.default, (t(4, 6, 8), [24, 8], [8, 1]), {})],
    "aten::_reshape_copy": [(aten._reshape_copy.default, (t(4, 6), [24]), {})],
    "aten::_unsafe_view": [(aten._unsafe_view.default, (t(4, 6, 8), [4, 48]), {})],
    "aten::broadcast_to": [(aten.broadcast_to.default, (t(4, 1), [3, 4, 6]), {})],
    "aten::expand": [
        (aten.expand.default, (t(4, 1, 6), [4, 8, 6]), {}),
        (aten.expand.default, (t(5, 1), [3, -1, 7]), {}),
    ],
    "aten::expand_as": [(aten.expand_as.default, (t(4, 1), t(4, 6)), {})],
    "aten::expand_copy": [(aten.expand_copy.default, (t(4, 1), [4, 6]), {})],
    "aten::flatten.using_ints": [
        (aten.flatten.using_ints, (t(*s), a, b), {}) for s in SHAPES for a, b in ((0, -1), (1, 2), (0, 1))
    ],
    "aten::mT": perm(aten.mT.default),
    "aten::movedim.int": perm(aten.movedim.int, 0, 2),
    "aten::movedim.intlist": perm(aten.movedim.intlist, [0, 1], [1, 2]),
    "aten::numpy_T": [(aten.numpy_T.default, (t(4, 6),), {})],
    "aten::permute": perm(aten.permute.default, [2, 0, 1]),
    "aten::permute_copy": perm(aten.permute_copy.default, [0, 2, 1]),
    "aten::ravel": perm(aten.ravel.default),
    "aten::repeat": [(aten.repeat.default, (t(4, 6), [2, 1, 3]), {}), (aten.repeat.default, (t(5, 1), [1, 4]), {})],
    "aten::repeat_interleave.self_int": [
        (aten.repeat_interleave.self_int, (t(2, 4, 6), 3, 1), {}),
        (aten.repeat_interleave.self_int, (t(3, 5), 2, -1), {}),
    ],
    "aten::reshape": [
        (aten.reshape.default, (t(4, 6, 8), [24, 8]), {}),
        (aten.reshape.default, (t(4, 6, 8), [4, -1]), {}),
        (aten.reshape.default, (t(2, 48), [2, 6, 8]), {}),
        (aten.reshape.default, (t(6, 4), [4, 6]), {}),
        (aten.reshape.default, (t(2, 4, 1, 3), [2, 1, 12]), {}),
    ],
    "aten::reshape_as": [(aten.reshape_as.default, (t(4, 6), t(24)), {})],
    "aten::squeeze": [
        (aten.squeeze.default, (t(4, 1, 6),), {}),
        (aten.squeeze.default, (t(1, 4, 3),), {}),
        (aten.squeeze.dim, (t(4, 1, 6), 1), {}),
        (aten.squeeze.dim, (t(4, 2, 6), 1), {}),
        (aten.squeeze.dims, (t(1, 4, 1), [0, 2]), {}),
    ],
    "aten::squeeze_copy": [(aten.squeeze_copy.dim, (t(4, 1, 6), 1), {})],
    "aten::swapaxes": perm(aten.swapaxes.default, 0, 1),
    "aten::swapdims": perm(aten.swapdims.default, 0, 1),
    "aten::t": [(aten.t.default, (t(4, 6),), {}), (aten.t.default, (t(5),), {})],
    "aten::t_copy": [(aten.t_copy.default, (t(4, 6),), {})],
    "aten::tile": [(aten.tile.default, (t(4, 6), [2, 1]), {})],
    "aten::transpose.int": perm(aten.transpose.int, -1, 1),
    "aten::transpose_copy.int": perm(aten.transpose_copy.int, 0, 1),
    "aten::unflatten.int": [
        (aten.unflatten.int, (t(2, 12, 3), 1, [4, 3]), {}),
        (aten.unflatten.int, (t(3, 10), -1, [-1, 2]), {}),
    ],
    "aten::unsqueeze": perm(aten.unsqueeze.default, 1),
    "aten::unsqueeze_copy": perm(aten.unsqueeze_copy.default, -1),
    "aten::view": [
        (aten.view.default, (t(4, 6, 8), [24, 8]), {}),
        (aten.view.default, (t(4, 6, 8), [-1, 8]), {}),
        (aten.view.default, (t(3, 5, 8), [3, 5, 2, 4]), {}),
        (aten.view.default, (t(2, 3, 20), [2, 3, 5, 4]), {}),
    ],
    "aten::view.dtype": [(aten.view.dtype, (t(4, 6), torch.int32), {})],
    "aten::view_as": [(aten.view_as.default, (t(4, 6), t(24)), {})],
    "aten::view_as_complex": [(aten.view_as_complex.default, (t(4, 6, 2),), {})],
    "aten::view_as_real": [(aten.view_as_real.default, (torch.complex(t(4, 6), t(4, 6)),), {})],
    "aten::view_copy": [(aten.view_copy.default, (t(4, 6), [24]), {})],
}
