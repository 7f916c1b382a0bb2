"""Sample calls for every operator of `shardwright.rules.embedding`."""

import torch

from tests.rules.harness import aten, ints, t

SAMPLES = {
    "aten::_embedding_bag": [
        (aten._embedding_bag.default, (t(12, 8), ints(12, 9), torch.tensor([0, 2, 5]), False, mode), {})
        for mode in (0, 1, 2)
    ],
    "aten::_embedding_bag_forward_only": [
        (aten._embedding_bag_forward_only.default, (t(12, 8), ints(12, 9), torch.tensor([0, 2, 5])), {})
    ],
    "aten::embedding": [
        (aten.embedding.default, (t(12, 8), ints(12, 3, 4)), {}),
        (aten.embedding.default, (t(7, 5), ints(7, 6)), {}),
        (aten.embedding.default, (t(3, 4), ints(3, 2, 2), 0), {}),
    ],
    "aten::embedding_bag": [(aten.embedding_bag.default, (t(7, 5), ints(7, 9), torch.tensor([0, 2, 5])), {})],
    "aten::embedding_bag.padding_idx": [
        (
            aten.embedding_bag.padding_idx,
            (t(7, 5), ints(7, 9), torch.tensor([0, 2, 5]), False, 0, False, t(9), False, 3),
            {},
        )
    ],
    "aten::embedding_dense_backward": [
        (aten.embedding_dense_backward.default, (t(4, 6, 8), ints(9, 4, 6), 9, -1, False), {})
    ],
}
