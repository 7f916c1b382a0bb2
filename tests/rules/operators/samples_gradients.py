"""Sample calls for every operator of `shardwright.rules.operators.gradients`."""

import torch

from tests.support.harness import SHAPES, aten, ints, positive, t

ONE, TWO, THREE = [(4, 6, 10), (3, 5, 8)], [(4, 6, 8, 8), (3, 5, 6, 8)], [(4, 6, 4, 4, 4), (3, 5, 4, 4, 4)]


def pointwise(op, *tail, **kwargs):
    return [(op, (t(*shape), t(*shape, seed=1), *tail), kwargs) for shape in SHAPES]


def losses(op, *, tail, target=lambda *shape: t(*shape, seed=2)):
    """The gradient of nothing reduced, of a mean and of a sum."""
    found = []
    for shape in ((4, 6), (3, 5, 7)):
        for reduction in (0, 1, 2):
            gradient = t(*shape) if reduction == 0 else t()
            found.append((op, (gradient, torch.sigmoid(t(*shape, seed=1)), target(*shape), *tail(reduction)), {}))
    return found


def only(*before):
    return lambda reduction: (*before, reduction)


def classes(op, *shapes, weight):
    """With and without weights, some rows ignored by an index that is a class, or none; some classes never met."""
    found = []
    for rows, count, *space in shapes:
        target = ints(count, rows, *space)
        target[0] = target[-1]
        for reduction in (0, 1, 2):
            gradient = t(rows, *space) if reduction == 0 else t()
            for ignored, weights in ((-100, None), (2, weight(count)), (0, None)):
                marked = target.masked_fill(target == 1, -100) if ignored == -100 else target
                scores = t(rows, count, *space, seed=1)
                found.append((op, (gradient, scores, marked, weights, reduction, ignored, torch.tensor(3.5)), {}))
    return found


def attention():
    found = []
    for b, h, s, v in ((2, 4, 6, 8), (3, 5, 4, 8)):
        for is_causal, mask in ((False, None), (True, None), (False, t(b, 1, s, s)), (False, t(s, s))):
            q, k, value = t(b, h, s, 8), t(b, h, s, 8, seed=1), t(b, h, s, v, seed=2)
            options = {"attn_mask": mask} if mask is not None else {}
            out, lse = aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, value, 0.0, is_causal, **options)
            args = (t(b, h, s, v, seed=3), q, k, value, out, lse, 0.0, is_causal)
            found.append((aten._scaled_dot_product_flash_attention_for_cpu_backward.default, args, options))
    return found


def softmaxes(op, forward):
    return [
        (op, (t(*shape), forward(t(*shape, seed=1), dim), dim, torch.float32), {})
        for shape in SHAPES
        for dim in (1, -1)
    ]


def pools(op, forward, shapes, *args):
    """The gradient of a pool that keeps the places of its maxima."""
    found = []
    for shape in shapes:
        x = t(*shape)
        result, places = forward(x, *args[:1])
        found.append((op, (t(*result.shape, seed=1), x, *args, places), {}))
    return found


def averages(op, shapes, *args, stride=2):
    return [(op, (t(*s[:2], *(n // stride for n in s[2:])), t(*s), *args), {}) for s in shapes]


def paddings(op, shapes, dims):
    return [(op, (t(*s[:2], *(n + 3 for n in s[2:])), t(*s), [1, 2] * dims), {}) for s in shapes]


def sized(op, shapes, *tail):
    return [(op, (t(*s[:2], *(2 * n for n in s[2:])), [2 * n for n in s[2:]], list(s), *tail), {}) for s in shapes]


def batch_norms():
    op = aten.native_batch_norm_backward.default
    found = []
    for shape in ((6, 8), (4, 5, 3), (3, 4, 3, 3)):
        c = shape[1]
        given = (t(*shape), t(*shape, seed=1), positive(c), t(c), positive(c))
        found.append((op, (*given, t(c, seed=4), positive(c), True, 1e-5, [True, True, True]), {}))
        found.append((op, (*given, t(0), t(0), False, 1e-5, [True, True, True]), {}))
        found.append((op, (*given[:2], None, *given[3:], t(0), t(0), False, 1e-5, [True, False, False]), {}))
    return found


def embeddings():
    op = aten.embedding_dense_backward.default
    return [
        (op, (t(4, 6, 8), ints(9, 4, 6), 9, -1, False), {}),
        (op, (t(4, 6, 8), ints(9, 4, 6), 9, 2, False), {}),
        (op, (t(4, 6, 8), ints(9, 4, 6), 9, 2, True), {}),
        (op, (t(5, 7), ints(4, 5), 4, 0, False), {}),
    ]


def selects():
    op = aten.select_backward.default
    return [(op, (t(4, 8), [4, 6, 8], 1, 2), {}), (op, (t(3, 5), [3, 5, 7], -1, -2), {}), (op, (t(), [5], 0, 3), {})]


def slices():
    op, end = aten.slice_backward.default, torch.iinfo(torch.int64).max
    return [
        (op, (t(4, 4, 8), [4, 8, 8], 1, 2, 6, 1), {}),
        (op, (t(3, 5, 4), [3, 5, 7], -1, 3, end, 1), {}),
        (op, (t(3, 5, 7), [3, 5, 7], 1, 0, end, 1), {}),
        (op, (t(3, 4, 7), [3, 8, 7], 1, 0, end, 2), {}),
        (op, (t(3, 2, 7), [3, 5, 7], 1, -2, end, 1), {}),
    ]


def rows(op):
    """Losses of every row, with weights of classes and without."""
    found = []
    for n, c in ((4, 6), (5, 3)):
        for reduction in (0, 1, 2):
            gradient = t(n) if reduction == 0 else t()
            args = (gradient, t(n, c, seed=1), ints(c, n), 1, 0.7)
            found += [(op, (*args, weight, reduction), {}) for weight in (None, positive(c))]
    return found


def labels():
    op = aten.multilabel_margin_loss_backward.default
    found = []
    for n, c in ((4, 6), (5, 3)):
        target = torch.full((n, c), -1).index_copy(1, torch.tensor([0]), ints(c, n, 1))
        for reduction in (0, 1, 2):
            scores = t(n, c, seed=1)
            _, is_target = aten.multilabel_margin_loss_forward.default(scores, target, reduction)
            found.append((op, (t(n) if reduction == 0 else t(), scores, target, reduction, is_target), {}))
    return found


POOL3 = ([2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], False)

SAMPLES = {
    "aten::_adaptive_avg_pool3d_backward": averages(aten._adaptive_avg_pool3d_backward.default, THREE),
    "aten::_log_softmax_backward_data": softmaxes(aten._log_softmax_backward_data.default, torch.log_softmax),
    "aten::_prelu_kernel_backward": [
        (aten._prelu_kernel_backward.default, (t(4, 6, 3), t(4, 6, 3, seed=1), t(1, 6, 1)), {}),
        (aten._prelu_kernel_backward.default, (t(3, 5), t(3, 5, seed=1), t(1, 1)), {}),
    ],
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": attention(),
    "aten::_softmax_backward_data": softmaxes(aten._softmax_backward_data.default, torch.softmax),
    "aten::_upsample_bicubic2d_aa_backward": sized(aten._upsample_bicubic2d_aa_backward.default, TWO, False),
    "aten::_upsample_bilinear2d_aa_backward": sized(aten._upsample_bilinear2d_aa_backward.default, TWO, False),
    "aten::_upsample_nearest_exact1d_backward": sized(aten._upsample_nearest_exact1d_backward.default, ONE),
    "aten::_upsample_nearest_exact2d_backward": sized(aten._upsample_nearest_exact2d_backward.default, TWO),
    "aten::_upsample_nearest_exact3d_backward": sized(aten._upsample_nearest_exact3d_backward.default, THREE),
    "aten::_weight_norm_interface_backward": [
        (
            aten._weight_norm_interface_backward.default,
            (t(8, 5), t(8, 5, seed=1), t(8, 1), t(8, 5, seed=1).norm(dim=1, keepdim=True), 0),
            {},
        ),
        (
            aten._weight_norm_interface_backward.default,
            (t(4, 6, 5), t(4, 6, 5, seed=1), t(1, 1, 5), t(4, 6, 5, seed=1).norm(dim=(0, 1), keepdim=True), 2),
            {},
        ),
    ],
    "aten::adaptive_max_pool2d_backward": pools(
        aten.adaptive_max_pool2d_backward.default, lambda x: aten.adaptive_max_pool2d.default(x, [2, 2]), TWO
    ),
    "aten::adaptive_max_pool3d_backward": pools(
        aten.adaptive_max_pool3d_backward.default, lambda x: aten.adaptive_max_pool3d.default(x, [2, 2, 2]), THREE
    ),
    "aten::avg_pool3d_backward": averages(
        aten.avg_pool3d_backward.default, THREE, [2, 2, 2], [2, 2, 2], [0, 0, 0], False, True, None
    ),
    "aten::binary_cross_entropy_backward": [
        *losses(aten.binary_cross_entropy_backward.default, tail=only(None), target=lambda *s: positive(*s) / 9),
        (aten.binary_cross_entropy_backward.default, (t(), positive(4, 6) / 9, positive(4, 6) / 8, positive(6), 1), {}),
    ],
    "aten::elu_backward": [
        (aten.elu_backward.default, (t(*shape), 1.0, 1.0, 1.0, False, t(*shape, seed=1)), {}) for shape in SHAPES
    ],
    "aten::embedding_dense_backward": embeddings(),
    "aten::glu_backward": [
        (aten.glu_backward.default, (t(4, 6, 8), t(4, 12, 8), 1), {}),
        (aten.glu_backward.default, (t(3, 5), t(3, 10), -1), {}),
    ],
    "aten::hardshrink_backward": pointwise(aten.hardshrink_backward.default, 0.5),
    "aten::hardsigmoid_backward": pointwise(aten.hardsigmoid_backward.default),
    "aten::hardswish_backward": pointwise(aten.hardswish_backward.default),
    "aten::hardtanh_backward": pointwise(aten.hardtanh_backward.default, -0.5, 0.5),
    "aten::huber_loss_backward": [
        (op, (*args, 0.7), {}) for op, args, _ in losses(aten.huber_loss_backward.default, tail=only())
    ],
    "aten::leaky_relu_backward": pointwise(aten.leaky_relu_backward.default, 0.1, False),
    "aten::max_pool3d_with_indices_backward": pools(
        aten.max_pool3d_with_indices_backward.default, aten.max_pool3d_with_indices.default, THREE, *POOL3
    ),
    "aten::mish_backward": pointwise(aten.mish_backward.default),
    "aten::mse_loss_backward": losses(aten.mse_loss_backward.default, tail=only()),
    "aten::multi_margin_loss_backward": rows(aten.multi_margin_loss_backward.default),
    "aten::multilabel_margin_loss_backward": labels(),
    "aten::native_batch_norm_backward": batch_norms(),
    "aten::nll_loss2d_backward": classes(aten.nll_loss2d_backward.default, (4, 6, 3, 2), (3, 5, 2, 2), weight=positive),
    "aten::nll_loss_backward": classes(aten.nll_loss_backward.default, (8, 6), (5, 7), weight=positive),
    "aten::reflection_pad1d_backward": paddings(aten.reflection_pad1d_backward.default, ONE, 1),
    "aten::reflection_pad2d_backward": paddings(aten.reflection_pad2d_backward.default, TWO, 2),
    "aten::reflection_pad3d_backward": paddings(aten.reflection_pad3d_backward.default, THREE, 3),
    "aten::replication_pad1d_backward": paddings(aten.replication_pad1d_backward.default, ONE, 1),
    "aten::replication_pad2d_backward": paddings(aten.replication_pad2d_backward.default, TWO, 2),
    "aten::replication_pad3d_backward": paddings(aten.replication_pad3d_backward.default, THREE, 3),
    "aten::rrelu_with_noise_backward": [
        (aten.rrelu_with_noise_backward.default, (t(*s), t(*s, seed=1), positive(*s), 0.1, 0.3, mode, False), {})
        for s in SHAPES
        for mode in (True, False)
    ],
    "aten::select_backward": selects(),
    "aten::slice_backward": slices(),
    "aten::smooth_l1_loss_backward": [
        (op, (*args, 0.7), {}) for op, args, _ in losses(aten.smooth_l1_loss_backward.default, tail=only())
    ],
    "aten::soft_margin_loss_backward": losses(aten.soft_margin_loss_backward.default, tail=only()),
    "aten::softplus_backward": pointwise(aten.softplus_backward.default, 1.0, 20.0),
    "aten::softshrink_backward": pointwise(aten.softshrink_backward.default, 0.5),
    "aten::upsample_bicubic2d_backward": sized(aten.upsample_bicubic2d_backward.default, TWO, False),
    "aten::upsample_bilinear2d_backward": sized(aten.upsample_bilinear2d_backward.default, TWO, False),
    "aten::upsample_linear1d_backward": sized(aten.upsample_linear1d_backward.default, ONE, False),
    "aten::upsample_nearest1d_backward": sized(aten.upsample_nearest1d_backward.default, ONE),
    "aten::upsample_nearest2d_backward": sized(aten.upsample_nearest2d_backward.default, TWO),
    "aten::upsample_nearest3d_backward": sized(aten.upsample_nearest3d_backward.default, THREE),
    "aten::upsample_trilinear3d_backward": sized(aten.upsample_trilinear3d_backward.default, THREE, False),
}

UNCHECKED = {
    "aten::_fused_rms_norm_backward": "needs a GPU",
    "aten::_scaled_dot_product_cudnn_attention_backward": "needs a GPU; see test_attention_on_gpus",
    "aten::_scaled_dot_product_efficient_attention_backward": "needs a GPU; see test_attention_on_gpus",
    "aten::_scaled_dot_product_flash_attention_backward": "needs a GPU; see test_attention_on_gpus",
}
