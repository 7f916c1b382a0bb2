"""Sample calls for every operator of `shardwright.rules.operators.repeating`."""

import torch

from tests.support.harness import aten, t


def expands(op):
    """A dim of size 1 grows, a new dim comes, ``-1`` keeps one, nothing grows."""
    return [
        (op, (t(4, 1, 6), [4, 8, 6]), {}),
        (op, (t(5, 1), [3, 5, 7]), {}),
        (op, (t(6, 4), [2, 6, 4]), {}),
        (op, (t(), [4, 5]), {}),
    ]


SAMPLES = {
    "aten::expand": [
        *expands(aten.expand.default),
        (aten.expand.default, (t(5, 1), [3, -1, 7]), {}),
        (aten.expand.default, (t(4, 1, 6), [-1, 8, -1]), {}),
    ],
    "aten::expand_as": [
        (aten.expand_as.default, (t(4, 1), t(4, 6)), {}),
        (aten.expand_as.default, (t(5), t(3, 5)), {}),
    ],
    "aten::expand_copy": [*expands(aten.expand_copy.default), (aten.expand_copy.default, (t(4, 1), [-1, 6]), {})],
    "aten::repeat": [
        (aten.repeat.default, (t(4, 6), [2, 1, 3]), {}),
        (aten.repeat.default, (t(5, 1), [1, 4]), {}),
        (aten.repeat.default, (t(3, 4), [5, 1]), {}),
        (aten.repeat.default, (t(3, 4), [0, 2]), {}),
    ],
    "aten::repeat_interleave.self_Tensor": [
        (aten.repeat_interleave.self_Tensor, (t(2, 3, 8), torch.tensor([1, 0, 2]), 1), {}),
        (aten.repeat_interleave.self_Tensor, (t(4, 3), torch.tensor(2), 0), {"output_size": 8}),
        (aten.repeat_interleave.self_Tensor, (t(2, 2), torch.tensor([1, 0, 2, 3])), {}),
    ],
    "aten::repeat_interleave.self_int": [
        (aten.repeat_interleave.self_int, (t(2, 4, 6), 3, 1), {}),
        (aten.repeat_interleave.self_int, (t(3, 5), 4, -1), {}),
        (aten.repeat_interleave.self_int, (t(2, 8), 2, 1), {"output_size": 16}),
        (aten.repeat_interleave.self_int, (t(4, 6), 2), {}),
    ],
    "aten::tile": [
        (aten.tile.default, (t(4, 6), [2, 1]), {}),
        (aten.tile.default, (t(3, 4, 5), [4]), {}),
        (aten.tile.default, (t(4), [2, 3]), {}),
    ],
}
