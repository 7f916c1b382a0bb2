"""Sample calls for every operator of `shardwright.rules.operators.convolution`."""

from tests.support.harness import aten, t


def conv(op, space, *tail, transposed=False, **kwargs):
    """One group, uneven channels without a bias, no batch dim, two groups, depthwise, uneven within groups."""
    size, kernel = (6, 5, 4)[:space], (3, 2, 2)[:space]

    def call(batch, i, o, groups, *, bias=True):
        weight = (i, o // groups, *kernel) if transposed else (o, i // groups, *kernel)
        return op, (t(*batch, i, *size), t(*weight), t(o) if bias else None), {"groups": groups, **kwargs}

    return [
        call((2,), 4, 8, 1),
        call((3,), 5, 7, 1, bias=False),
        call((), 4, 6, 1),
        call((2,), 4, 8, 2),
        call((2,), 6, 6, 6),
        call((2,), 6, 12, 6),
        call((), 9, 15, 3, bias=False),
        call((2,), 12, 4, 2),
    ]


def full(groups, i, o, *, transposed=False):
    """The core operator, which spells everything."""
    weight = (i, o // groups, 3, 2) if transposed else (o, i // groups, 3, 2)
    padding = ([1, 1], [0, 1], [1, 1], transposed, [0, 0], groups)
    return aten.convolution.default, (t(2, i, 6, 5), t(*weight), t(o), *padding), {}


def legacy(groups, i, o, **how):
    """The core operator with its choice of a backend."""
    _, args, _ = full(groups, i, o, **how)
    return aten._convolution.default, (*args, False, False, True, True), {}


def gradients(groups, i, o, *, mask=(True, True, True), space=(5, 4), transposed=False):
    """Of a convolution that leaves the sizes of space as they are; ``mask``: which of the three."""
    weight = (i, o // groups) if transposed else (o, i // groups)
    ones = [1] * len(space)
    how = (ones, ones, ones, transposed, [0] * len(space), groups, list(mask))
    given = (t(4, o, *space), t(4, i, *space, seed=1), t(*weight, *[3] * len(space), seed=2), [o] if mask[2] else None)
    return aten.convolution_backward.default, (*given, *how), {}


def space(op, dims, *args):
    """A batch of images, and one without a batch dim."""
    size = (8, 6, 4)[:dims]
    return [(op, (t(2, 4, *size), *args), {}), (op, (t(5, *size), *args), {})]


def resized(op, dims, *args):
    """Interpolation takes a batch dim."""
    return [(op, (t(2, 4, *(8, 6, 4)[:dims]), *args), {}), (op, (t(3, 5, *(4, 4, 4)[:dims]), *args), {})]


def pooled(dims, kernel):
    """Operands of an unpooling: what was kept, and where it came from."""
    pool = (aten.max_pool2d_with_indices, aten.max_pool3d_with_indices)[dims - 2]
    size = (8, 6, 4)[:dims]
    return pool.default(t(2, 4, *size), [kernel] * dims)


def unpooled(op, dims, *tail):
    values, indices = pooled(dims, 2)
    return [(op, (values, indices, list((8, 6, 4)[:dims]), *tail), {})]


SAMPLES = {
    "aten::_adaptive_avg_pool2d": space(aten._adaptive_avg_pool2d.default, 2, [2, 3]),
    "aten::_adaptive_avg_pool2d_backward": [
        (aten._adaptive_avg_pool2d_backward.default, (t(2, 4, 2, 3), t(2, 4, 8, 6)), {})
    ],
    "aten::_adaptive_avg_pool3d": space(aten._adaptive_avg_pool3d.default, 3, [2, 3, 2]),
    "aten::_convolution": [
        legacy(1, 4, 8),
        legacy(2, 4, 8),
        legacy(1, 4, 6, transposed=True),
        (aten._convolution.deprecated, legacy(2, 4, 8)[1][:-1], {}),
    ],
    "aten::_convolution_mode": [
        (
            aten._convolution_mode.default,
            (t(2, 4, 6, 5), t(8, 4 // groups, 3, 2), t(8), [1, 1], "same", [1, 1], groups),
            {},
        )
        for groups in (1, 2)
    ],
    "aten::_upsample_bicubic2d_aa": resized(aten._upsample_bicubic2d_aa.default, 2, [12, 9], False),
    "aten::_upsample_bilinear2d_aa": resized(aten._upsample_bilinear2d_aa.default, 2, [12, 9], False),
    "aten::_upsample_nearest_exact1d": resized(aten._upsample_nearest_exact1d.default, 1, [12]),
    "aten::_upsample_nearest_exact2d": resized(aten._upsample_nearest_exact2d.default, 2, [12, 9]),
    "aten::_upsample_nearest_exact3d": resized(aten._upsample_nearest_exact3d.default, 3, [12, 9, 5]),
    "aten::adaptive_avg_pool1d": space(aten.adaptive_avg_pool1d.default, 1, [2]),
    "aten::adaptive_avg_pool2d": space(aten.adaptive_avg_pool2d.default, 2, [2, 3]),
    "aten::adaptive_avg_pool3d": space(aten.adaptive_avg_pool3d.default, 3, [2, 3, 2]),
    "aten::adaptive_max_pool1d": space(aten.adaptive_max_pool1d.default, 1, [2]),
    "aten::adaptive_max_pool2d": space(aten.adaptive_max_pool2d.default, 2, [2, 3]),
    "aten::adaptive_max_pool3d": space(aten.adaptive_max_pool3d.default, 3, [2, 3, 2]),
    "aten::affine_grid_generator": [
        (aten.affine_grid_generator.default, (t(4, 2, 3), [4, 3, 5, 6], False), {}),
        (aten.affine_grid_generator.default, (t(3, 3, 4), [3, 1, 4, 5, 6], True), {}),
    ],
    "aten::avg_pool1d": space(aten.avg_pool1d.default, 1, [2]),
    "aten::avg_pool2d": space(aten.avg_pool2d.default, 2, [2, 2]),
    "aten::avg_pool2d_backward": [
        (aten.avg_pool2d_backward.default, (t(2, 4, 4, 3), t(2, 4, 8, 6), [2, 2], [], [0, 0], False, True, None), {})
    ],
    "aten::avg_pool3d": space(aten.avg_pool3d.default, 3, [2, 2, 2]),
    "aten::col2im": [(aten.col2im.default, (t(2, 16, 12), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1]), {})],
    "aten::conv1d": conv(aten.conv1d.default, 1),
    "aten::conv2d": [*conv(aten.conv2d.default, 2, padding=[1, 0]), *conv(aten.conv2d.padding, 2, padding="same")],
    "aten::conv3d": conv(aten.conv3d.default, 3),
    "aten::conv_tbc": [
        (aten.conv_tbc.default, (t(7, 4, 6), t(3, 6, 8), t(8), 1), {}),
        (aten.conv_tbc.default, (t(5, 3, 3), t(2, 3, 5), t(5)), {}),
    ],
    "aten::conv_transpose1d": conv(aten.conv_transpose1d.default, 1, transposed=True),
    "aten::conv_transpose2d.input": conv(aten.conv_transpose2d.input, 2, transposed=True, stride=[2, 2]),
    "aten::conv_transpose3d.input": conv(aten.conv_transpose3d.input, 3, transposed=True),
    "aten::convolution": [
        full(1, 4, 8),
        full(2, 4, 8),
        full(1, 3, 5),
        full(1, 4, 6, transposed=True),
        full(3, 9, 6, transposed=True),
    ],
    "aten::convolution_backward": [
        gradients(1, 6, 8),
        gradients(1, 6, 8, mask=[False, True, False], space=[5]),
        gradients(1, 3, 5, mask=[True, True, False], space=[4, 3, 3]),
        gradients(4, 8, 8),
        gradients(3, 9, 6, mask=[True, True, False]),
        gradients(2, 6, 10, mask=[True, False, True], space=[7]),
        gradients(1, 4, 6, transposed=True),
        gradients(3, 9, 6, transposed=True, mask=[True, True, False]),
    ],
    "aten::grid_sampler": [(aten.grid_sampler.default, (t(4, 6, 5, 5), t(4, 3, 8, 2), 0, 0, False), {})],
    "aten::grid_sampler_2d": [(aten.grid_sampler_2d.default, (t(4, 6, 5, 5), t(4, 3, 8, 2), 0, 0, True), {})],
    "aten::grid_sampler_3d": [(aten.grid_sampler_3d.default, (t(2, 4, 5, 5, 3), t(2, 3, 4, 2, 3), 0, 0, True), {})],
    "aten::im2col": [
        (aten.im2col.default, (t(2, 4, 4, 5), [2, 2], [1, 1], [0, 0], [1, 1]), {}),
        (aten.im2col.default, (t(5, 4, 5), [2, 2], [1, 1], [0, 0], [1, 1]), {}),
    ],
    "aten::max_pool1d": space(aten.max_pool1d.default, 1, [2]),
    "aten::max_pool1d_with_indices": space(aten.max_pool1d_with_indices.default, 1, [2]),
    "aten::max_pool2d": space(aten.max_pool2d.default, 2, [2, 2]),
    "aten::max_pool2d_with_indices": space(aten.max_pool2d_with_indices.default, 2, [2, 2]),
    "aten::max_pool2d_with_indices_backward": [
        (
            aten.max_pool2d_with_indices_backward.default,
            (t(2, 4, 4, 3), t(2, 4, 8, 6), [2, 2], [2, 2], [0, 0], [1, 1], False, pooled(2, 2)[1]),
            {},
        )
    ],
    "aten::max_pool3d": space(aten.max_pool3d.default, 3, [2, 2, 2]),
    "aten::max_pool3d_with_indices": space(aten.max_pool3d_with_indices.default, 3, [2, 2, 2]),
    "aten::max_unpool2d": unpooled(aten.max_unpool2d.default, 2),
    "aten::max_unpool3d": unpooled(aten.max_unpool3d.default, 3, [2, 2, 2], [0, 0, 0]),
    "aten::upsample_bicubic2d": resized(aten.upsample_bicubic2d.default, 2, [12, 9], False),
    "aten::upsample_bilinear2d": [
        *resized(aten.upsample_bilinear2d.default, 2, [12, 9], False),
        *resized(aten.upsample_bilinear2d.vec, 2, [12, 9], False, None),
    ],
    "aten::upsample_linear1d": resized(aten.upsample_linear1d.default, 1, [12], False),
    "aten::upsample_nearest1d": resized(aten.upsample_nearest1d.default, 1, [12]),
    "aten::upsample_nearest2d": [
        *resized(aten.upsample_nearest2d.default, 2, [12, 9]),
        *resized(aten.upsample_nearest2d.vec, 2, [12, 9], None),
    ],
    "aten::upsample_nearest3d": resized(aten.upsample_nearest3d.default, 3, [12, 9, 5]),
    "aten::upsample_trilinear3d": resized(aten.upsample_trilinear3d.default, 3, [12, 9, 5], False),
}
