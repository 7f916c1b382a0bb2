"""Sample calls for every operator of `shardwright.rules.operators.embedding`."""

import torch

from tests.support.harness import aten, ints, t

OFFSETS = torch.tensor([0, 2, 2, 5])
"""Bags of two, none, three and all other entries."""


def bags(op, padding, *, rows=12, features=8):
    """Calls in every mode, with and without padding, with weights of the samples, with the last offset."""
    found = []
    for mode in (0, 1, 2):
        for skip in padding:
            found.append((op, (t(rows, features), ints(rows, 9), OFFSETS, False, mode, False, None, False, *skip), {}))
            ends = torch.cat([OFFSETS, torch.tensor([9])])
            found.append((op, (t(rows, features), ints(rows, 9), ends, False, mode, False, None, True, *skip), {}))
    weighted = [(t(7, 5), ints(7, 9), OFFSETS, False, 0, False, t(9), False, *skip) for skip in padding]
    # A bag of nothing but padding, and rows fewer than ranks.
    small = [(t(3, 5), torch.tensor([1, 1, 0, 1, 2, 1, 0, 2, 2]), OFFSETS, False, 2, False, None, False, *padding[-1])]
    return found + [(op, args, {}) for args in (*weighted, *small)]


SAMPLES = {
    "aten::_embedding_bag": bags(aten._embedding_bag.default, [(-1,), (1,)]),
    "aten::_embedding_bag_forward_only": bags(aten._embedding_bag_forward_only.default, [(-1,), (1,)]),
    "aten::embedding": [
        (aten.embedding.default, (t(12, 8), ints(12, 3, 4)), {}),
        (aten.embedding.default, (t(7, 5), ints(7, 6)), {}),
        (aten.embedding.default, (t(3, 4), ints(3, 2, 2), 0), {}),
    ],
    "aten::embedding_bag": bags(aten.embedding_bag.default, [()]),
    "aten::embedding_bag.padding_idx": bags(aten.embedding_bag.padding_idx, [(None,), (3,), (-2,), (1,)]),
}
