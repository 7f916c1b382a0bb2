"""Sample calls for every operator of `shardwright.rules.operators.norms`."""

from tests.support.harness import SHAPES, aten, positive, t


def norm_samples(op, *tail, bias=True):
    found = []
    for shape in SHAPES:
        weights = (t(shape[-1]), t(shape[-1], seed=5))[: 2 if bias else 1]
        found.append((op, (t(*shape), [shape[-1]], *weights, *tail), {}))
    return found


def bn(op, *tail, stats=True):
    found = []
    for shape in ((6, 8), (4, 5, 3), (2, 4, 3, 3)):
        c = shape[1]
        running = (t(c), positive(c)) if stats else ()
        found.append((op, (t(*shape), positive(c), t(c), *running, *tail), {}))
    return found


SAMPLES = {
    "aten::_batch_norm_no_update": bn(aten._batch_norm_no_update.default, 0.1, 1e-5),
    "aten::_batch_norm_with_update_functional": bn(aten._batch_norm_with_update_functional.default, 0.1, 1e-5),
    "aten::_fused_rms_norm": norm_samples(aten._fused_rms_norm.default, 1e-6, bias=False),
    "aten::_native_batch_norm_legit": bn(aten._native_batch_norm_legit.no_stats, True, 0.1, 1e-5, stats=False),
    "aten::_native_batch_norm_legit_functional": [
        *bn(aten._native_batch_norm_legit_functional.default, True, 0.1, 1e-5),
        *bn(aten._native_batch_norm_legit_functional.default, False, 0.1, 1e-5),
    ],
    "aten::_native_batch_norm_legit_no_training": bn(aten._native_batch_norm_legit_no_training.default, 0.1, 1e-5),
    "aten::_weight_norm": [
        (aten._weight_norm.default, (t(8, 5), t(8, 1)), {}),
        (aten._weight_norm.default, (t(5, 4, 3), t(5, 1, 1)), {}),
        (aten._weight_norm.default, (t(4, 6, 8), t(1, 1, 8), 2), {}),
        (aten._weight_norm.default, (t(4, 6, 8), t(1, 6, 1), 1), {}),
        (aten._weight_norm.default, (t(4, 6), t(), -1), {}),
        (aten._weight_norm.default, (t(4, 6), t(6), 1), {}),
        (aten._weight_norm.default, (t(8), t(8)), {}),
    ],
    "aten::_weight_norm_interface": [
        (aten._weight_norm_interface.default, (t(8, 5), t(8, 1)), {}),
        (aten._weight_norm_interface.default, (t(4, 6, 5), t(1, 1, 5), 2), {}),
    ],
    "aten::batch_norm": bn(aten.batch_norm.default, False, 0.1, 1e-5, True),
    "aten::group_norm": [
        (aten.group_norm.default, (t(2, 8, 3, 3), 4, t(8), t(8, seed=1)), {}),
        (aten.group_norm.default, (t(3, 6, 5), 3, t(6), t(6, seed=1)), {}),
        (aten.group_norm.default, (t(3, 6, 5), 2), {}),
    ],
    "aten::instance_norm": [
        (aten.instance_norm.default, (t(4, 6, 5), t(6), t(6), None, None, True, 0.1, 1e-5, True), {}),
    ],
    "aten::layer_norm": norm_samples(aten.layer_norm.default),
    "aten::native_batch_norm": bn(aten.native_batch_norm.default, False, 0.1, 1e-5),
    "aten::native_group_norm": [
        (aten.native_group_norm.default, (t(2, 8, 3, 3), t(8), t(8, seed=1), 2, 8, 9, 4, 1e-5), {}),
    ],
    "aten::native_group_norm_backward": [
        (
            aten.native_group_norm_backward.default,
            (t(4, 8, 3, 3), t(4, 8, 3, 3, seed=2), t(4, 4), positive(4, 4), t(8), 4, 8, 9, 4, [True, True, True]),
            {},
        ),
        (
            aten.native_group_norm_backward.default,
            (t(3, 6, 5), t(3, 6, 5, seed=2), t(3, 3), positive(3, 3), t(6), 3, 6, 5, 3, [True, True, True]),
            {},
        ),
    ],
    "aten::native_layer_norm": norm_samples(aten.native_layer_norm.default, 1e-5),
    "aten::native_layer_norm_backward": [
        (
            aten.native_layer_norm_backward.default,
            (t(4, 6, 8), t(4, 6, 8, seed=2), [8], t(4, 6, 1), positive(4, 6, 1), t(8), t(8), [True, True, True]),
            {},
        ),
        (
            aten.native_layer_norm_backward.default,
            (t(5, 7), t(5, 7, seed=2), [7], t(5, 1), positive(5, 1), t(7), None, [True, True, False]),
            {},
        ),
    ],
    "aten::norm_except_dim": [
        (aten.norm_except_dim.default, (t(4, 6, 8), 2, 0), {}),
        (aten.norm_except_dim.default, (t(4, 6, 8), 1, 2), {}),
        (aten.norm_except_dim.default, (t(4, 6, 8), 2, -2), {}),
        (aten.norm_except_dim.default, (t(4, 6), 2, -1), {}),
    ],
    "aten::rms_norm": norm_samples(aten.rms_norm.default, 1e-6, bias=False),
}
