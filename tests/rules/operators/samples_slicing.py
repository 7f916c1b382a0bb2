"""Sample calls for every operator of `shardwright.rules.operators.slicing`."""

from tests.support.harness import SHAPES, along, aten, t

END = 9223372036854775807
"""How exporters spell the end of a dim."""


def split_at(op, arg, dim=1):
    """Every sample shape split by ``arg(size)``."""
    return [(op, (t(*shape), arg(shape[dim]), dim), {}) for shape in SHAPES]


def slices(op):
    """Whole, middle, from the end, beyond the end, of nothing, with steps that fit the dim and that do not."""
    arguments = (
        (t(4, 8, 12), 1, 0, END),
        (t(4, 8, 12), 1, 2, 6),
        (t(4, 8, 12), 1, 0, 6),
        (t(4, 8, 12), -1, 3, END),
        (t(3, 7), 1, -3),
        (t(3, 7), 1, -100, 100),
        (t(3, 7), 1, None, -1),
        (t(3, 7), 1, 3, 3),
        (t(3, 8), 1, 0, 8, 2),
        (t(3, 8), 1, 1, END, 2),
        (t(3, 8), 1, 0, -1, 2),
        (t(3, 8), 1, 2, END, 2),
        (t(3, 7), 1, 0, END, 2),
        (t(5, 1), 1, 0, 1),
    )
    return [(op, args, {}) for args in arguments]


def narrows(op):
    return [
        *along(op, 1, 4),
        *((op, (t(*shape), 1, 0, shape[1]), {}) for shape in SHAPES),
        (op, (t(4, 8), -1, -3, 2), {}),
    ]


SAMPLES = {
    "aten::chunk": [
        *split_at(aten.chunk.default, lambda n: 2),
        (aten.chunk.default, (t(12, 2), 3), {}),
        (aten.chunk.default, (t(3, 4), 1, -1), {}),
    ],
    "aten::diagonal_scatter": [
        (aten.diagonal_scatter.default, (t(4, 6, 6), t(4, 6), 0, 1, 2), {}),
        (aten.diagonal_scatter.default, (t(5, 3), t(3)), {}),
    ],
    "aten::dsplit": [
        (aten.dsplit.int, (t(4, 2, 6), 2), {}),
        (aten.dsplit.array, (t(3, 2, 7), [2, 5]), {}),
    ],
    "aten::hsplit": [
        (aten.hsplit.int, (t(4, 6), 2), {}),
        (aten.hsplit.int, (t(12), 3), {}),
        (aten.hsplit.array, (t(3, 7), [2, 5]), {}),
    ],
    "aten::narrow": narrows(aten.narrow.default),
    "aten::narrow_copy": narrows(aten.narrow_copy.default),
    "aten::select.int": [*along(aten.select.int, 0), (aten.select.int, (t(4, 6), -1, -2), {})],
    "aten::select_copy.int": along(aten.select_copy.int, -1),
    "aten::select_scatter": [
        (aten.select_scatter.default, (t(4, 8, 6), t(4, 6), 1, 3), {}),
        (aten.select_scatter.default, (t(3, 5), t(3), -1, -1), {}),
    ],
    "aten::slice.Tensor": slices(aten.slice.Tensor),
    "aten::slice_copy.Tensor": slices(aten.slice_copy.Tensor),
    "aten::slice_scatter": [
        (aten.slice_scatter.default, (t(4, 8, 6), t(4, 3, 6), 1, 2, 5), {}),
        (aten.slice_scatter.default, (t(3, 7), t(3, 3), 1, -3), {}),
        (aten.slice_scatter.default, (t(3, 7), t(3, 7, seed=1), 1, 0, END), {}),
        (aten.slice_scatter.default, (t(3, 8), t(3, 4), 1, 0, END, 2), {}),
        (aten.slice_scatter.default, (t(3, 8), t(3, 0), 1, 4, 4), {}),
    ],
    "aten::split.Tensor": [
        *split_at(aten.split.Tensor, lambda n: max(n // 2, 1)),
        (aten.split.Tensor, (t(3, 7), 3, -1), {}),
    ],
    "aten::split_copy.Tensor": split_at(aten.split_copy.Tensor, lambda n: max(n // 2, 1)),
    "aten::split_with_sizes": [
        *split_at(aten.split_with_sizes.default, lambda n: [n - 3, 2, 1]),
        (aten.split_with_sizes.default, (t(3, 20), [12, 4, 4], 1), {}),
        (aten.split_with_sizes.default, (t(8, 3), [5, 0, 3]), {}),
    ],
    "aten::split_with_sizes_copy": split_at(aten.split_with_sizes_copy.default, lambda n: [n - 2, 2]),
    "aten::tensor_split.indices": [
        (aten.tensor_split.indices, (t(4, 8), [2, 5], 1), {}),
        (aten.tensor_split.indices, (t(4, 8), [5, 2], 1), {}),
    ],
    "aten::tensor_split.sections": [(aten.tensor_split.sections, (t(4, 9), 2, 1), {})],
    "aten::unbind.int": [
        (aten.unbind.int, (t(3, 4, 8), 0), {}),
        (aten.unbind.int, (t(4, 3, 5), 1), {}),
        (aten.unbind.int, (t(4, 1, 5), -2), {}),
        (aten.unbind.int, (t(5),), {}),
    ],
    "aten::unbind_copy.int": [(aten.unbind_copy.int, (t(3, 4, 8), 0), {})],
    "aten::unsafe_chunk": [(aten.unsafe_chunk.default, (t(4, 8), 2, 1), {})],
    "aten::unsafe_split.Tensor": [(aten.unsafe_split.Tensor, (t(4, 8), 4, 1), {})],
    "aten::unsafe_split_with_sizes": split_at(aten.unsafe_split_with_sizes.default, lambda n: [2, n - 2]),
    "aten::vsplit": [
        (aten.vsplit.int, (t(6, 4), 2), {}),
        (aten.vsplit.array, (t(7, 3), [2, 5]), {}),
    ],
}
