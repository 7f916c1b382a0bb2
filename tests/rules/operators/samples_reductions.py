"""Sample calls for every operator of `shardwright.rules.operators.reductions`."""

import torch

from tests.support.harness import SHAPES, along, aten, ints, t, unary


def reduced(op, **kwargs):
    found = unary(op, **kwargs)
    for shape in SHAPES:
        found += [
            (op, (t(*shape), [1]), kwargs),
            (op, (t(*shape), [-1], True), kwargs),
            (op, (t(*shape), [0, 2]), kwargs),
        ]
    return found


SAMPLES = {
    "aten::_is_all_true": [(aten._is_all_true.default, (t(*s) > -9,), {}) for s in ((), (5,), (4, 8))],
    "aten::_is_any_true": [(aten._is_any_true.default, (t(*s) > 1,), {}) for s in ((), (5,), (4, 8))],
    "aten::_log_softmax": along(aten._log_softmax.default, False),
    "aten::_safe_softmax": along(aten._safe_softmax.default),
    "aten::_softmax": along(aten._softmax.default, False, dim=-1),
    "aten::all": [(aten.all.dim, (t(4, 8) > 0, 1), {}), (aten.all.default, (t(4, 8) > 0,), {})],
    "aten::amax": reduced(aten.amax.default)[3:],
    "aten::amin": reduced(aten.amin.default)[3:],
    "aten::aminmax": [(aten.aminmax.default, (t(4, 8),), {"dim": 1}), (aten.aminmax.default, (t(4, 8),), {})],
    "aten::any": [(aten.any.dim, (t(4, 8) > 0, 1), {}), (aten.any.default, (t(4, 8) > 0,), {})],
    "aten::argmax": along(aten.argmax.default),
    "aten::argmin": along(aten.argmin.default),
    "aten::argsort": along(aten.argsort.default),
    "aten::count_nonzero": [(aten.count_nonzero.dim_IntList, (ints(2, 4, 8), [1]), {})],
    "aten::cummax": along(aten.cummax.default),
    "aten::cummin": along(aten.cummin.default),
    "aten::cumprod": along(aten.cumprod.default),
    "aten::cumsum": along(aten.cumsum.default),
    "aten::cumulative_trapezoid": [(aten.cumulative_trapezoid.x, (t(4, 8), t(8)), {"dim": 1})],
    "aten::histc": [(aten.histc.default, (t(4, 8), 5, -1.0, 1.0), {}), (aten.histc.default, (t(5),), {})],
    "aten::histogram": [
        (aten.histogram.bin_ct, (t(4, 8), 5), {"range": [-1.0, 1.0]}),
        (aten.histogram.bin_ct, (t(4, 8), 5), {"range": [-1.0, 1.0], "weight": t(4, 8, seed=3)}),
        (aten.histogram.bin_ct, (t(4, 8), 5), {"range": [-1.0, 1.0], "density": True}),
        (aten.histogram.bin_ct, (t(5), 4), {}),
        (aten.histogram.bins_tensor, (t(4, 8), torch.linspace(-1, 1, 6)), {"weight": t(4, 8, seed=3)}),
    ],
    "aten::kthvalue": [(aten.kthvalue.default, (t(*s), 2, 1), {}) for s in SHAPES],
    "aten::linalg_vector_norm": [(aten.linalg_vector_norm.default, (t(4, 8, 6), 2.0, [1], True), {})],
    "aten::log_softmax.int": along(aten.log_softmax.int),
    "aten::logcumsumexp": along(aten.logcumsumexp.default),
    "aten::logsumexp": [(aten.logsumexp.default, (t(*s), [1]), {}) for s in SHAPES],
    "aten::max": unary(aten.max.default),
    "aten::max.dim": along(aten.max.dim),
    "aten::mean": [*unary(aten.mean.default), *reduced(aten.mean.dim)[3:]],
    "aten::median": unary(aten.median.default),
    "aten::median.dim": along(aten.median.dim),
    "aten::min": unary(aten.min.default),
    "aten::min.dim": along(aten.min.dim),
    "aten::mode": along(aten.mode.default),
    "aten::msort": unary(aten.msort.default),
    "aten::nanmean": reduced(aten.nanmean.default)[3:],
    "aten::nanmedian": unary(aten.nanmedian.default),
    "aten::nanmedian.dim": along(aten.nanmedian.dim),
    "aten::nanquantile": [(aten.nanquantile.scalar, (t(4, 8), 0.3, 1), {})],
    "aten::nansum": reduced(aten.nansum.default)[3:],
    "aten::norm.Scalar": unary(aten.norm.Scalar),
    "aten::norm.ScalarOpt_dim": [(aten.norm.ScalarOpt_dim, (t(4, 8), 2.0, [1]), {})],
    "aten::norm.ScalarOpt_dim_dtype": [
        (aten.norm.ScalarOpt_dim_dtype, (t(4, 8), 2.0, [1], False), {"dtype": torch.float64})
    ],
    "aten::norm.ScalarOpt_dtype": [(aten.norm.ScalarOpt_dtype, (t(4, 8), 2.0), {"dtype": torch.float64})],
    "aten::prod": [
        # Near one, as the product of many is zero otherwise.
        *((aten.prod.default, (1 + 0.1 * t(*shape),), {}) for shape in SHAPES),
        *along(aten.prod.dim_int),
    ],
    "aten::quantile": [
        (aten.quantile.scalar, (t(4, 8), 0.3), {}),
        (aten.quantile.default, (t(4, 8), torch.tensor([0.3, 0.5, 0.9]), 1, True), {}),
        (aten.quantile.default, (t(4, 8), torch.tensor(0.3), 0), {}),
    ],
    "aten::renorm": [(aten.renorm.default, (t(*s), 2.0, 1, 0.5), {}) for s in SHAPES],
    "aten::softmax.int": along(aten.softmax.int, dim=-1),
    "aten::sort": along(aten.sort.default, False),
    "aten::sort.stable": [(aten.sort.stable, (t(4, 8),), {"stable": True, "dim": 1})],
    "aten::std": unary(aten.std.default),
    "aten::std.correction": [(aten.std.correction, (t(4, 8), [1]), {})],
    "aten::std.dim": [(aten.std.dim, (t(4, 8), [1]), {})],
    "aten::std_mean": [(aten.std_mean.correction, (t(4, 8), [1]), {}), (aten.std_mean.default, (t(4, 8),), {})],
    "aten::sum": [*unary(aten.sum.default), *reduced(aten.sum.dim_IntList)[3:]],
    "aten::sum_to_size": [
        (aten.sum_to_size.default, (t(4, 8, 6), [8, 1]), {}),
        (aten.sum_to_size.default, (t(4, 8, 6), [4, 1, 6]), {}),
    ],
    "aten::topk": [(aten.topk.default, (t(*s), 2), {}) for s in SHAPES],
    "aten::trace": [(aten.trace.default, (t(4, 6),), {})],
    "aten::trapezoid": [
        (aten.trapezoid.x, (t(4, 8), t(4, 8, seed=2)), {"dim": 0}),
        (aten.trapezoid.dx, (t(5, 6),), {}),
    ],
    "aten::var": unary(aten.var.default),
    "aten::var.correction": [(aten.var.correction, (t(4, 8), [1]), {"keepdim": True})],
    "aten::var.dim": [(aten.var.dim, (t(4, 8), [1]), {})],
    "aten::var_mean": [
        (aten.var_mean.correction, (t(4, 8), [1]), {"keepdim": True}),
        (aten.var_mean.dim, (t(5, 3), [0]), {}),
    ],
}
