"""Sample calls for every operator of `shardwright.rules.reductions`."""

from tests.rules.harness import SHAPES, along, aten, ints, t, unary


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
    "aten::_log_softmax": along(aten._log_softmax.default, False),
    "aten::_safe_softmax": along(aten._safe_softmax.default),
    "aten::_softmax": along(aten._softmax.default, False, dim=-1),
    "aten::all": [(aten.all.dim, (t(4, 8) > 0, 1), {}), (aten.all.default, (t(4, 8) > 0,), {})],
    "aten::amax": reduced(aten.amax.default)[3:],
    "aten::amin": reduced(aten.amin.default)[3:],
    "aten::any": [(aten.any.dim, (t(4, 8) > 0, 1), {}), (aten.any.default, (t(4, 8) > 0,), {})],
    "aten::argmax": along(aten.argmax.default),
    "aten::argmin": along(aten.argmin.default),
    "aten::argsort": along(aten.argsort.default),
    "aten::count_nonzero": [(aten.count_nonzero.dim_IntList, (ints(2, 4, 8), [1]), {})],
    "aten::cummax": along(aten.cummax.default),
    "aten::cummin": along(aten.cummin.default),
    "aten::cumprod": along(aten.cumprod.default),
    "aten::cumsum": along(aten.cumsum.default),
    "aten::linalg_vector_norm": [(aten.linalg_vector_norm.default, (t(4, 8, 6), 2.0, [1], True), {})],
    "aten::log_softmax.int": along(aten.log_softmax.int),
    "aten::logcumsumexp": along(aten.logcumsumexp.default),
    "aten::logsumexp": [(aten.logsumexp.default, (t(*s), [1]), {}) for s in SHAPES],
    "aten::max": unary(aten.max.default),
    "aten::max.dim": along(aten.max.dim),
    "aten::mean": [*unary(aten.mean.default), *reduced(aten.mean.dim)[3:]],
    "aten::median.dim": along(aten.median.dim),
    "aten::min": unary(aten.min.default),
    "aten::min.dim": along(aten.min.dim),
    "aten::norm.ScalarOpt_dim": [(aten.norm.ScalarOpt_dim, (t(4, 8), 2.0, [1]), {})],
    "aten::prod": [*unary(aten.prod.default), *along(aten.prod.dim_int)],
    "aten::softmax.int": along(aten.softmax.int, dim=-1),
    "aten::sort": along(aten.sort.default, False),
    "aten::sort.stable": [(aten.sort.stable, (t(4, 8),), {"stable": True, "dim": 1})],
    "aten::std": unary(aten.std.default),
    "aten::std.correction": [(aten.std.correction, (t(4, 8), [1]), {})],
    "aten::std.dim": [(aten.std.dim, (t(4, 8), [1]), {})],
    "aten::std_mean.correction": [(aten.std_mean.correction, (t(4, 8), [1]), {})],
    "aten::sum": [*unary(aten.sum.default), *reduced(aten.sum.dim_IntList)[3:]],
    "aten::topk": [(aten.topk.default, (t(*s), 2), {}) for s in SHAPES],
    "aten::var": unary(aten.var.default),
    "aten::var.correction": [(aten.var.correction, (t(4, 8), [1]), {"keepdim": True})],
    "aten::var.dim": [(aten.var.dim, (t(4, 8), [1]), {})],
    "aten::var_mean.correction": [(aten.var_mean.correction, (t(4, 8), [1]), {"keepdim": True})],
}
