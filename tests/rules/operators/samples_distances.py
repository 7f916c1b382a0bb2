"""Sample calls for every operator of `shardwright.rules.operators.distances`."""

import torch

from tests.support.harness import aten, ints, t

PAIR = (t(4, 6, 5), t(4, 6, 5, seed=3))
SORTED = PAIR[0].sort()[0]

SAMPLES = {
    "aten::bucketize.Tensor": [
        (aten.bucketize.Tensor, (t(4, 6), t(5).sort()[0]), {}),
        (aten.bucketize.Tensor, (torch.tensor([float("nan"), -9.0, 9.0]), t(8).sort()[0]), {"right": True}),
    ],
    "aten::cosine_similarity": [
        (aten.cosine_similarity.default, PAIR, {}),
        (aten.cosine_similarity.default, (t(5, 3), t(3, seed=2), -1), {}),
    ],
    "aten::dist": [(aten.dist.default, (*PAIR, p), {}) for p in (1.0, 2.0, float("inf"), float("-inf"))],
    "aten::isin.Tensor_Tensor": [
        (aten.isin.Tensor_Tensor, (ints(9, 4, 6), ints(9, 3)), {}),
        (aten.isin.Tensor_Tensor, (ints(9, 4, 6), ints(9, 7)), {"invert": True}),
    ],
    "aten::pairwise_distance": [
        (aten.pairwise_distance.default, PAIR, {}),
        (aten.pairwise_distance.default, (t(5, 3), t(3, seed=2), 2.0, 1e-6, True), {}),
    ],
    "aten::searchsorted": [
        (aten.searchsorted.Tensor, (SORTED[0, 0], t(4, 6)), {}),
        (aten.searchsorted.Tensor, (SORTED[0, 0], t(4, 6)), {"right": True, "out_int32": True}),
        (aten.searchsorted.Tensor, (SORTED, t(4, 6, 3)), {"side": "right"}),
        (aten.searchsorted.Tensor, (PAIR[0], t(4, 6, 3)), {"sorter": PAIR[0].argsort()}),
        (aten.searchsorted.Tensor, (PAIR[0][0, 0], t(7)), {"sorter": PAIR[0][0, 0].argsort()}),
        (aten.searchsorted.Scalar, (SORTED[0, 0], 0.3), {}),
    ],
}
