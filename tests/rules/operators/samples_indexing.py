"""Sample calls for every operator of `shardwright.rules.operators.indexing`."""

import torch

from tests.support.harness import aten, ints, t


def mask(*shape):
    """Some trues and some falses."""
    return t(*shape, seed=2) > 0


def count(*shape):
    """How many trues `mask` has."""
    return int(mask(*shape).sum())


SAMPLES = {
    "aten::_unsafe_index.Tensor": [(aten._unsafe_index.Tensor, (t(4, 8, 6), [None, ints(8, 5)]), {})],
    "aten::_unsafe_index_put": [(aten._unsafe_index_put.default, (t(4, 8, 6), [None, ints(8, 1)], t(4, 1, 6)), {})],
    "aten::gather": [
        (aten.gather.default, (t(4, 8, 6), 1, ints(8, 4, 3, 6)), {}),
        (aten.gather.default, (t(5, 7), 1, ints(7, 3, 7)), {}),
    ],
    "aten::index.Tensor": [
        (aten.index.Tensor, (t(4, 8, 6), [ints(4, 5)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [None, ints(8, 5, 2)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [ints(4, 5, 1), ints(8, 3)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [ints(4, 5), None, ints(6, 5)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [mask(4, 8)]), {}),
        (aten.index.Tensor, (t(3, 5, 3), [mask(3)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [None, mask(8)]), {}),
        (aten.index.Tensor, (t(4, 6), [mask(4, 6)]), {}),
        (aten.index.Tensor, (t(4, 8, 6, 5), [None, mask(8, 6), ints(5, 1)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [torch.tensor([True, False, True, True]), None, ints(6, 2, 3)]), {}),
    ],
    "aten::index_add": [
        (aten.index_add.default, (t(4, 8, 6), 1, ints(8, 3), t(4, 3, 6)), {}),
        (aten.index_add.default, (t(5, 3), 0, ints(5, 11), t(11, 3)), {"alpha": 2}),
        (aten.index_add.default, (ints(9, 5), 0, ints(5, 8), ints(9, 8)), {}),
    ],
    "aten::index_copy": [(aten.index_copy.default, (t(4, 8, 6), 1, torch.tensor([2, 5, 7]), t(4, 3, 6)), {})],
    "aten::index_fill.int_Scalar": [(aten.index_fill.int_Scalar, (t(4, 8, 6), 1, ints(8, 3), 2.0), {})],
    "aten::index_fill.int_Tensor": [(aten.index_fill.int_Tensor, (t(4, 8, 6), 1, ints(8, 3), torch.tensor(2.0)), {})],
    "aten::index_put": [
        (aten.index_put.default, (t(4, 8, 6), [None, torch.tensor([1, 5])], t(4, 2, 6)), {}),
        (aten.index_put.default, (t(4, 8, 6), [None, None, torch.tensor([3])], t(4, 8, 1)), {}),
        (aten.index_put.default, (t(4, 8, 6), [ints(4, 5), ints(8, 5)], t(5, 6), True), {}),
        (aten.index_put.default, (t(5, 7), [None, ints(7, 4, 3)], t(5, 4, 3), True), {}),
        (aten.index_put.default, (t(4, 8), [ints(4, 6, 1), ints(8, 5)], t(6, 1), True), {}),
        (aten.index_put.default, (ints(9, 6), [ints(6, 13)], torch.tensor(3), True), {}),
        (aten.index_put.default, (t(4, 8, 6), [mask(4, 8)], t(count(4, 8), 6)), {}),
        (aten.index_put.default, (t(3, 5, 3), [mask(3)], t(count(3), 5, 3), True), {}),
        (aten.index_put.default, (t(4, 8, 6), [None, mask(8)], t(4, count(8), 1)), {}),
        (aten.index_put.default, (t(4, 8, 6), [mask(4, 8)], t(6)), {}),
        (aten.index_put.default, (t(4, 8, 6), [mask(4, 8)], t(1, 6), True), {}),
        (aten.index_put.default, (t(4, 8, 6), [None, mask(8)], t(4, 1, 6)), {}),
        (aten.index_put.default, (ints(9, 5, 7), [mask(5, 7)], torch.tensor(0)), {}),
        (aten.index_put.default, (t(4, 8, 6), [mask(4), None, ints(6, 1)], t(count(4), 8)), {}),
    ],
    "aten::index_reduce": [(aten.index_reduce.default, (t(4, 8, 6), 1, ints(8, 3), t(4, 3, 6), "amax"), {})],
    "aten::index_select": [(aten.index_select.default, (t(4, 8, 6), 1, ints(8, 6)), {})],
    "aten::masked_scatter": [
        (aten.masked_scatter.default, (t(4, 6), mask(4, 6), t(4, 6, seed=3)), {}),
        (aten.masked_scatter.default, (t(4, 8, 6), mask(4, 8, 1), t(count(4, 8), 6)), {}),
        (aten.masked_scatter.default, (t(3, 5, 7), mask(3, 5, 1), t(5, 3, 7)), {}),
        (aten.masked_scatter.default, (t(4, 6, 5), mask(4, 1, 1), t(4, 6, 5, seed=3)), {}),
        (aten.masked_scatter.default, (t(4, 6, 5), mask(6, 1), t(24, 5)), {}),
        (aten.masked_scatter.default, (t(4, 8, 6), mask(4, 8, 1), t(32 * 6)), {}),
        (aten.masked_scatter.default, (t(1, 6), mask(4, 1), t(4, 6)), {}),
    ],
    "aten::put": [
        (aten.put.default, (t(4, 6), ints(24, 5), t(5)), {}),
        (aten.put.default, (t(4, 6), ints(24, 5), t(5), True), {}),
    ],
    "aten::scatter.reduce": [(aten.scatter.reduce, (t(4, 8), 1, ints(8, 4, 3), t(4, 3)), {"reduce": "add"})],
    "aten::scatter.src": [(aten.scatter.src, (t(4, 8, 6), 1, ints(8, 4, 1, 6), t(4, 1, 6)), {})],
    "aten::scatter.value": [(aten.scatter.value, (t(4, 8), 1, ints(8, 4, 2), 1.0), {})],
    "aten::scatter.value_reduce": [
        (aten.scatter.value_reduce, (t(4, 8), 1, ints(8, 4, 3), 2.0), {"reduce": "multiply"})
    ],
    "aten::scatter_add": [
        (aten.scatter_add.default, (t(4, 8, 6), 1, ints(8, 4, 3, 6), t(4, 3, 6)), {}),
        (aten.scatter_add.default, (t(5, 7), 0, ints(5, 3, 6), t(3, 6)), {}),
        (aten.scatter_add.default, (t(5), 0, ints(5, 13), t(13)), {}),
        (aten.scatter_add.default, (ints(9, 5), 0, ints(5, 8), ints(9, 8)), {}),
    ],
    "aten::scatter_reduce.two": [
        (aten.scatter_reduce.two, (t(4, 8), 1, ints(8, 4, 3), t(4, 3), "amax"), {}),
        *((aten.scatter_reduce.two, (t(5), 0, ints(5, 13), t(13), how), {}) for how in ("sum", "prod", "mean", "amin")),
        (aten.scatter_reduce.two, (t(5), 0, ints(5, 13), t(13), "amax"), {"include_self": False}),
    ],
    "aten::take": [(aten.take.default, (t(4, 6), ints(24, 8, 3)), {})],
    "aten::take_along_dim": [
        (aten.take_along_dim.default, (t(4, 8, 6), ints(8, 4, 3, 6), 1), {}),
        (aten.take_along_dim.default, (t(4, 8), ints(8, 1, 3), 1), {}),
    ],
}
