"""Sample calls for every operator of `shardwright.rules.operators.powers`."""

import torch

from tests.support.harness import aten, t

own = torch.ops.shardwright

ORDERS = (0.0, 1.0, 2.0, 3.0, float("inf"))
PAIRS = ((t(2, 4, 3), t(2, 6, 3)), (t(5, 3), t(7, 3)), (t(1, 4, 8), t(3, 2, 8)))
MANY = (t(30, 8), t(28, 8))

SAMPLES = {
    "aten::_cdist_forward": [(aten._cdist_forward.default, (*pair, p, None), {}) for pair in PAIRS for p in ORDERS],
    "aten::_euclidean_dist": [(aten._euclidean_dist.default, (t(5, 3), t(7, 3)), {})],
    "aten::_pdist_forward": [(aten._pdist_forward.default, (t(6, 4), p), {}) for p in ORDERS],
    "aten::cdist": [(aten.cdist.default, (*pair, p), {}) for pair in PAIRS for p in ORDERS],
    "aten::pdist": [(aten.pdist.default, (t(6, 4),), {}), (aten.pdist.default, (t(6, 4), 1.0), {})],
    "shardwright::cdist_powers": [
        *((own.cdist_powers.default, (*pair, p, None), {}) for pair in PAIRS for p in (2.0, 3.5)),
        (own.cdist_powers.default, (*MANY, 2.0, None), {}),
        (own.cdist_powers.default, (*PAIRS[0], 2.0, 1), {}),
    ],
    "shardwright::pdist_powers": [(own.pdist_powers.default, (t(6, 8), p), {}) for p in (2.0, 3.5)],
}
