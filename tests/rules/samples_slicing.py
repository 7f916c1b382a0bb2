"""Sample calls for every operator of `shardwright.rules.slicing`."""

from tests.rules.harness import SHAPES, along, aten, t, unary


def split_samples(op, arg, dim=1):
    return [(op, (t(*shape), arg(shape[dim]), dim), {}) for shape in SHAPES]


def cat_list(op, dim):
    return [(op, ([t(a, b, c), t(a, b, c, seed=3)], dim), {}) for a, b, c in SHAPES]


SAMPLES = {
    "aten::cat": [
        *cat_list(aten.cat.default, 1),
        *cat_list(aten.cat.default, -1),
        (aten.cat.default, ([t(4, 2), t(4, 5), t(4, 1)], 1), {}),
        (aten.cat.default, ([t(0), t(4, 5)], 1), {}),
    ],
    "aten::chunk": [*split_samples(aten.chunk.default, lambda n: 2), (aten.chunk.default, (t(12, 2), 3), {})],
    "aten::concat": cat_list(aten.concat.default, 0),
    "aten::concatenate": cat_list(aten.concatenate.default, 0),
    "aten::constant_pad_nd": [
        (aten.constant_pad_nd.default, (t(4, 6, 8), [1, 0]), {}),
        (aten.constant_pad_nd.default, (t(4, 6, 8), [0, 0, 1, 2], 3.0), {}),
    ],
    "aten::diagonal": [(aten.diagonal.default, (t(4, 6, 6), 0, 1, 2), {})],
    "aten::diagonal_copy": [(aten.diagonal_copy.default, (t(4, 6, 6), 0, 1, 2), {})],
    "aten::flip": unary(aten.flip.default, [1]),
    "aten::narrow": [(aten.narrow.default, (t(*s), 1, 1, 4), {}) for s in SHAPES],
    "aten::narrow_copy": [(aten.narrow_copy.default, (t(4, 8), 1, 2, 4), {})],
    "aten::pad": [
        (aten.pad.default, (t(4, 6, 8), [1, 1]), {}),
        (aten.pad.default, (t(4, 6, 8), [1, 1], "reflect"), {}),
    ],
    "aten::roll": unary(aten.roll.default, [1], [1]),
    "aten::select.int": along(aten.select.int, 0),
    "aten::select_copy.int": along(aten.select_copy.int, -1),
    "aten::select_scatter": [(aten.select_scatter.default, (t(4, 8, 6), t(4, 6), 1, 3), {})],
    "aten::slice.Tensor": [
        (aten.slice.Tensor, args, {})
        for args in (
            (t(4, 8, 12), 1, 0, 9223372036854775807),
            (t(4, 8, 12), 1, 2, 6),
            (t(4, 8, 12), -1, 3, 9223372036854775807),
            (t(3, 7), 1, -3),
            (t(3, 8), 1, 0, 8, 2),
            (t(5, 1), 1, 0, 1),
        )
    ],
    "aten::slice_copy.Tensor": [(aten.slice_copy.Tensor, (t(4, 8), 1, 2, 6), {})],
    "aten::slice_scatter": [(aten.slice_scatter.default, (t(4, 8, 6), t(4, 3, 6), 1, 2, 5), {})],
    "aten::split.Tensor": split_samples(aten.split.Tensor, lambda n: max(n // 2, 1)),
    "aten::split.sizes": split_samples(aten.split.sizes, lambda n: [n - 2, 2]),
    "aten::split_copy.Tensor": split_samples(aten.split_copy.Tensor, lambda n: max(n // 2, 1)),
    "aten::split_with_sizes": [
        *split_samples(aten.split_with_sizes.default, lambda n: [n - 3, 2, 1]),
        (aten.split_with_sizes.default, (t(3, 20), [12, 4, 4], 1), {}),
    ],
    "aten::split_with_sizes_copy": split_samples(aten.split_with_sizes_copy.default, lambda n: [n - 2, 2]),
    "aten::stack": cat_list(aten.stack.default, 1),
    "aten::tensor_split.indices": [(aten.tensor_split.indices, (t(4, 8), [2, 5], 1), {})],
    "aten::tensor_split.sections": [(aten.tensor_split.sections, (t(4, 9), 2, 1), {})],
    "aten::tril": unary(aten.tril.default),
    "aten::triu": unary(aten.triu.default, 1),
    "aten::unbind.int": [(aten.unbind.int, (t(3, 4, 8), 0), {}), (aten.unbind.int, (t(4, 3, 5), 1), {})],
    "aten::unbind_copy.int": [(aten.unbind_copy.int, (t(3, 4, 8), 0), {})],
    "aten::unfold": [(aten.unfold.default, (t(4, 8, 6), 1, 3, 2), {})],
    "aten::unfold_copy": [(aten.unfold_copy.default, (t(4, 8), 1, 3, 2), {})],
    "aten::unsafe_chunk": [(aten.unsafe_chunk.default, (t(4, 8), 2, 1), {})],
    "aten::unsafe_split.Tensor": [(aten.unsafe_split.Tensor, (t(4, 8), 4, 1), {})],
}
