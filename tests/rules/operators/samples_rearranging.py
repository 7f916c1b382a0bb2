"""Sample calls for every operator of `shardwright.rules.operators.rearranging`."""

from tests.support.harness import aten, t, unary


def edges(op, num_dims):
    """A batch of images of ``num_dims`` dims, padded on both sides by different amounts."""
    pad, one_sided = [1, 2] * num_dims, [1, 2, 0, 1, 1, 0][: 2 * num_dims]
    return [
        (op, (t(4, 6, *[3, 4, 5][:num_dims]), pad), {}),
        (op, (t(5, *[4, 3, 5][:num_dims]), pad), {}),
        (op, (t(2, 4, *[8, 6, 4][:num_dims]), one_sided), {}),
    ]


def diagonals(op):
    return [
        (op, (t(4, 6, 6), 0, 1, 2), {}),
        (op, (t(4, 6, 5), 1, 0, -1), {}),
        (op, (t(8, 3),), {}),
        (op, (t(4, 6, 8), -1, 2, 0), {}),
    ]


def windows(op):
    """Overlapping, side by side, side by side with a rest, and along the last dim."""
    return [
        (op, (t(4, 8, 6), 1, 3, 2), {}),
        (op, (t(4, 8, 6), 1, 2, 2), {}),
        (op, (t(4, 9), 1, 4, 4), {}),
        (op, (t(3, 12), -1, 3, 3), {}),
    ]


SAMPLES = {
    "aten::channel_shuffle": [
        (aten.channel_shuffle.default, (t(2, 12, 3, 4), 4), {}),
        (aten.channel_shuffle.default, (t(3, 10, 2, 2), 2), {}),
        (aten.channel_shuffle.default, (t(4, 12, 3, 2), 3), {}),
        (aten.channel_shuffle.default, (t(2, 10, 3), 2), {}),
    ],
    "aten::constant_pad_nd": [
        (aten.constant_pad_nd.default, (t(4, 6, 8), [1, 0]), {}),
        (aten.constant_pad_nd.default, (t(4, 6, 8), [0, 0, 1, 2], 3.0), {}),
        (aten.constant_pad_nd.default, (t(3, 5, 7), [-1, -2, 2, 0]), {}),
    ],
    "aten::diag_embed": [
        (aten.diag_embed.default, (t(4, 6),), {}),
        (aten.diag_embed.default, (t(4, 6, 3), 1, 0, 2), {}),
    ],
    "aten::diagonal": diagonals(aten.diagonal.default),
    "aten::diagonal_copy": diagonals(aten.diagonal_copy.default),
    "aten::flip": [
        *unary(aten.flip.default, [1]),
        (aten.flip.default, (t(4, 6), [-1, 0]), {}),
        (aten.flip.default, (t(4, 6), []), {}),
    ],
    "aten::fliplr": unary(aten.fliplr.default),
    "aten::flipud": unary(aten.flipud.default),
    "aten::native_channel_shuffle": [
        (aten.native_channel_shuffle.default, (t(2, 12, 3, 4), 4), {}),
        (aten.native_channel_shuffle.default, (t(4, 12, 3, 2), 3), {}),
    ],
    "aten::pad": [
        (aten.pad.default, (t(4, 6, 8), [1, 1]), {}),
        (aten.pad.default, (t(4, 6, 8), [1, 1], "constant", 2.0), {}),
        (aten.pad.default, (t(4, 6, 8), [1, 1], "reflect"), {}),
        (aten.pad.default, (t(4, 6, 8), [2, 1], "circular"), {}),
    ],
    "aten::pixel_shuffle": [
        (aten.pixel_shuffle.default, (t(2, 16, 4, 3), 2), {}),
        (aten.pixel_shuffle.default, (t(9, 5, 4), 3), {}),
        (aten.pixel_shuffle.default, (t(4, 8, 3, 3), 2), {}),
    ],
    "aten::pixel_unshuffle": [
        (aten.pixel_unshuffle.default, (t(2, 4, 8, 6), 2), {}),
        (aten.pixel_unshuffle.default, (t(3, 9, 3), 3), {}),
    ],
    "aten::reflection_pad1d": edges(aten.reflection_pad1d.default, 1),
    "aten::reflection_pad2d": edges(aten.reflection_pad2d.default, 2),
    "aten::reflection_pad3d": edges(aten.reflection_pad3d.default, 3),
    "aten::replication_pad1d": edges(aten.replication_pad1d.default, 1),
    "aten::replication_pad2d": edges(aten.replication_pad2d.default, 2),
    "aten::replication_pad3d": edges(aten.replication_pad3d.default, 3),
    "aten::roll": [
        *unary(aten.roll.default, [1], [1]),
        (aten.roll.default, (t(4, 6), [1, 2], [0, -1]), {}),
        (aten.roll.default, (t(4, 6), [5]), {}),
    ],
    "aten::rot90": [(aten.rot90.default, (t(4, 6, 3),), {}), (aten.rot90.default, (t(4, 6, 3), 2, [0, 2]), {})],
    "aten::tril": unary(aten.tril.default),
    "aten::triu": [*unary(aten.triu.default, 1), (aten.triu.default, (t(5, 6), -1), {})],
    "aten::unfold": windows(aten.unfold.default),
    "aten::unfold_copy": windows(aten.unfold_copy.default),
}
