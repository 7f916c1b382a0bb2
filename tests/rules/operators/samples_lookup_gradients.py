"""Sample calls for every operator of `shardwright.rules.operators.lookup_gradients`."""

import torch

from tests.support.harness import aten, ints, positive, t


def diagonals():
    op = aten.diagonal_backward.default
    return [
        (op, (t(4, 6), [4, 6, 6], 0, 1, 2), {}),
        (op, (t(3, 5, 4), [3, 6, 5, 4], 2, -1, 1), {}),
        (op, (t(3), [4, 7], -1, 0, 1), {}),
    ]


def windows():
    op = aten.unfold_backward.default
    return [
        (op, (t(4, 3, 6, 4), [4, 8, 6], 1, 4, 2), {}),
        (op, (t(3, 5, 3), [3, 7], -1, 3, 1), {}),
        (op, (t(2, 5, 3), [5, 5], 0, 3, 2), {}),
    ]


def chosen():
    """Rows by a mask, elements by a mask of all of them, fewer trues than there are rows."""
    op, rows = aten.masked_scatter_backward.default, torch.tensor([[True, False, True], [False, True, True]])
    return [
        (op, (t(2, 3, 8), rows.unsqueeze(-1), [4, 8]), {}),
        (op, (t(2, 3, 5), rows.unsqueeze(-1), [6, 5]), {}),
        (op, (t(2, 3, 4), rows.unsqueeze(-1).expand(2, 3, 4), [4, 4]), {}),
        (op, (t(4, 6), t(4, 6, seed=1) > 0, [24]), {}),
    ]


def sampled(op, *shapes):
    found = []
    for n, c, image, places in shapes:
        for mask in ([True, True], [False, True]):
            grid = t(n, *places, len(places), seed=2) / 2
            found.append((op, (t(n, c, *places), t(n, c, *image, seed=1), grid, 0, 0, False, mask), {}))
    return found


def distances():
    op = aten._cdist_backward.default
    found = []
    for batch, p, r, m in (((), 4, 6, 8), ((2,), 5, 3, 4), ((3, 2), 4, 4, 5)):
        one, other = t(*batch, p, m), t(*batch, r, m, seed=1)
        found += [(op, (t(*batch, p, r), one, other, k, torch.cdist(one, other, k)), {}) for k in (1.0, 2.0, 3.0)]
    return found


def bags(weighted=False, dense=True):
    """Sums, means and maxima of each bag."""
    found = []
    for d, mode in ((8, 0), (5, 1), (6, 2)):
        rows, offsets, bag = ints(9, 7), torch.tensor([0, 2, 5]), torch.tensor([0, 0, 1, 1, 1, 2, 2])
        weights = positive(7) if mode == 0 else None
        kept = aten._embedding_bag.default(t(9, d), rows, offsets, False, mode, False, weights)
        gradient = t(3, d, seed=1)
        if not dense:
            op, tail = aten._embedding_bag_backward.default, (9, False, mode, False, weights)
            found.append((op, (gradient, rows, offsets, bag, *kept[2:], *tail), {}))
        elif not weighted:
            op, tail = aten._embedding_bag_dense_backward.default, (9, False, mode, weights)
            found.append((op, (gradient, rows, bag, *kept[2:], *tail), {}))
        elif weights is not None:
            op = aten._embedding_bag_per_sample_weights_backward.default
            found.append((op, (gradient, t(9, d), rows, offsets, bag, mode), {}))
    return found


SAMPLES = {
    "aten::_cdist_backward": distances(),
    "aten::_embedding_bag_backward": bags(dense=False),
    "aten::_embedding_bag_dense_backward": bags(),
    "aten::_embedding_bag_per_sample_weights_backward": bags(weighted=True),
    "aten::diagonal_backward": diagonals(),
    "aten::grid_sampler_2d_backward": sampled(
        aten.grid_sampler_2d_backward.default, (4, 6, (5, 4), (3, 2)), (3, 5, (4, 4), (4, 3))
    ),
    "aten::grid_sampler_3d_backward": sampled(
        aten.grid_sampler_3d_backward.default, (2, 4, (5, 4, 3), (3, 2, 4)), (3, 1, (4, 4, 2), (2, 3, 3))
    ),
    "aten::masked_scatter_backward": chosen(),
    "aten::unfold_backward": windows(),
}
