"""Sample calls for every operator of `shardwright.rules.operators.losses`."""

import torch

from tests.support.harness import aten, ints, positive, t


def reduced(op, *calls, position, **kwargs):
    """Each call with no reduction, a mean and a sum, ``reduction`` standing at ``position``."""
    found = []
    for args in calls:
        found += [(op, (*args[:position], reduction, *args[position:]), kwargs) for reduction in (0, 1, 2)]
    return found


def unit(*shape):
    return torch.sigmoid(t(*shape))


def signs(*shape):
    return torch.sign(t(*shape))


TWO = [(t(4, 6), t(4, 6, seed=3)), (t(5, 7), t(7)), (t(3), t(3, seed=2))]
CLASSES = [(t(6, 5), ints(5, 6)), (t(4, 5, 3), ints(5, 4, 3)), (t(5), torch.tensor(2))]


def classes(op, position, *tail):
    """Sums, and no reduction; a mean has no rule, as what it divides by depends on the targets."""
    found = []
    for args in CLASSES:
        for reduction in (0, 2):
            found.append((op, (*args, *tail, None, reduction)[: position + 1], {}))
            found.append((op, (*args, *tail, positive(5), reduction)[: position + 1], {}))
    return found


SAMPLES = {
    "aten::binary_cross_entropy": reduced(
        aten.binary_cross_entropy.default, (unit(4, 6), unit(4, 6), None), (unit(5), unit(5), positive(5)), position=3
    ),
    "aten::binary_cross_entropy_with_logits": reduced(
        aten.binary_cross_entropy_with_logits.default,
        (t(4, 6), unit(4, 6), None, positive(6)),
        (t(5, 3), unit(5, 3), positive(3), None),
        position=4,
    ),
    "aten::cosine_embedding_loss": reduced(
        aten.cosine_embedding_loss.default, (t(6, 4), t(6, 4, seed=1), signs(6), 0.1), position=4
    ),
    "aten::cross_entropy_loss": [
        *classes(aten.cross_entropy_loss.default, 3),
        (aten.cross_entropy_loss.default, (t(4, 6), unit(4, 6), None, 2), {}),
    ],
    "aten::hinge_embedding_loss": reduced(aten.hinge_embedding_loss.default, (t(4, 6), signs(4, 6), 1.0), position=3),
    "aten::huber_loss": reduced(aten.huber_loss.default, *TWO, position=2),
    "aten::kl_div": reduced(aten.kl_div.default, (t(4, 6), unit(4, 6)), position=2),
    "aten::l1_loss": reduced(aten.l1_loss.default, *TWO, position=2),
    "aten::margin_ranking_loss": reduced(
        aten.margin_ranking_loss.default, (t(4, 6), t(4, 6, seed=1), signs(4, 6), 0.5), position=4
    ),
    "aten::mse_loss": reduced(aten.mse_loss.default, *TWO, position=2),
    "aten::multi_margin_loss": reduced(aten.multi_margin_loss.default, (t(6, 5), ints(5, 6), 1, 1.0, None), position=5),
    "aten::multilabel_margin_loss": reduced(aten.multilabel_margin_loss.default, (t(6, 5), ints(5, 6, 5)), position=2),
    "aten::nll_loss": classes(aten.nll_loss.default, 3)[:4],
    "aten::nll_loss2d": [
        (aten.nll_loss2d.default, (t(4, 5, 3, 2), ints(5, 4, 3, 2), None, reduction), {}) for reduction in (0, 2)
    ],
    "aten::nll_loss2d_forward": [
        (aten.nll_loss2d_forward.default, (t(4, 5, 3, 2), ints(5, 4, 3, 2), positive(5), 2, -100), {})
    ],
    "aten::nll_loss_forward": [(aten.nll_loss_forward.default, (t(6, 5), ints(5, 6), positive(5), 2, -100), {})],
    "aten::nll_loss_nd": classes(aten.nll_loss_nd.default, 3)[:8],
    "aten::poisson_nll_loss": [
        (aten.poisson_nll_loss.default, (t(4, 6), positive(4, 6), True, False, 1e-8, r), {}) for r in (0, 1, 2)
    ],
    "aten::smooth_l1_loss": reduced(aten.smooth_l1_loss.default, *TWO, position=2),
    "aten::soft_margin_loss": reduced(aten.soft_margin_loss.default, (t(4, 6), signs(4, 6)), position=2),
    "aten::triplet_margin_loss": [
        (aten.triplet_margin_loss.default, (t(6, 4), t(6, 4, seed=1), t(6, 4, seed=2), 1.0, 2.0, 1e-6, False, r), {})
        for r in (0, 1, 2)
    ],
}
