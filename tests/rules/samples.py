"""Sample calls for every registered operator: even sizes, uneven sizes, sizes of 1, and the forms exporters emit."""

import torch

aten = torch.ops.aten


def t(*shape, seed=0):
    """A float tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def positive(*shape):
    return t(*shape).abs() + 0.5


def ints(high, *shape):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


SHAPES = ((4, 8, 12), (3, 5, 7), (1, 6, 4))
"""Even on 2 and 4 ranks, uneven, and with a size of 1."""


def each(make):
    return [make(*shape) for shape in SHAPES]


def unary(op, *args, **kwargs):
    return [(op, (t(*shape), *args), kwargs) for shape in SHAPES]


def binary(op, **kwargs):
    found = [(op, (t(*shape), t(*shape, seed=9)), kwargs) for shape in SHAPES]
    return [
        *found,
        (op, (t(4, 8, 12), t(12)), kwargs),
        (op, (t(4, 1, 12), t(8, 1)), kwargs),
        (op, (t(6, 4), t()), kwargs),
    ]


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


def sdpa(op, **kwargs):
    q, kv = (2, 8, 5, 4), (2, 4, 5, 4)
    same = [(op, (t(*q), t(*q, seed=1), t(*q, seed=2)), kwargs)]
    odd = [(op, (t(1, 3, 6, 4), t(1, 3, 7, 4), t(1, 3, 7, 6)), {})]
    masks = [
        (op, (t(*q), t(*q, seed=1), t(*q, seed=2), t(*mask)), {})
        for mask in ((5, 5), (2, 1, 5, 5), (2, 8, 5, 5), (1, 8, 1, 5))
    ]
    grouped = [
        (op, (t(*q), t(*kv, seed=1), t(*kv, seed=2)), {"enable_gqa": True}),
        (op, (t(2, 9, 5, 4), t(2, 3, 5, 4), t(2, 3, 5, 4)), {"enable_gqa": True, "is_causal": True}),
    ]
    flat = [(op, (t(6, 5, 4), t(6, 5, 4, seed=1), t(6, 5, 4, seed=2)), {})]
    return [*same, *odd, *masks, *grouped, *flat]


def split_samples(op, arg, dim=1):
    return [(op, (t(*shape), arg(shape[dim]), dim), {}) for shape in SHAPES]


def reduced(op, **kwargs):
    found = unary(op, **kwargs)
    for shape in SHAPES:
        found += [
            (op, (t(*shape), [1]), kwargs),
            (op, (t(*shape), [-1], True), kwargs),
            (op, (t(*shape), [0, 2]), kwargs),
        ]
    return found


def along(op, *args, dim=1, **kwargs):
    return [(op, (t(*shape), dim, *args), kwargs) for shape in SHAPES]


def cat_list(op, dim):
    return [(op, ([t(a, b, c), t(a, b, c, seed=3)], dim), {}) for a, b, c in SHAPES]


def perm(op, *args):
    return [(op, (t(*shape), *args), {}) for shape in SHAPES]


SAMPLES = {
    # attention, embedding
    "aten::_scaled_dot_product_flash_attention_for_cpu": [
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (t(2, 8, 5, 4), t(2, 8, 5, 4), t(2, 8, 5, 4)), {}),
        (
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            (t(1, 3, 6, 4), t(1, 3, 6, 4), t(1, 3, 6, 4), 0.0, True),
            {},
        ),
    ],
    "aten::_scaled_dot_product_efficient_attention": [],
    "aten::_scaled_dot_product_flash_attention": [],
    "aten::scaled_dot_product_attention": sdpa(aten.scaled_dot_product_attention.default),
    "aten::embedding": [
        (aten.embedding.default, (t(12, 8), ints(12, 3, 4)), {}),
        (aten.embedding.default, (t(7, 5), ints(7, 6)), {}),
        (aten.embedding.default, (t(3, 4), ints(3, 2, 2), 0), {}),
    ],
    # factories
    "aten::arange": [(aten.arange.default, (7,), {})],
    "aten::arange.start": [(aten.arange.start, (1, 9), {})],
    "aten::arange.start_step": [(aten.arange.start_step, (1, 9, 2), {})],
    "aten::empty.memory_format": [],
    "aten::empty_like": [],
    "aten::new_empty": [],
    "aten::eye": [(aten.eye.default, (4,), {})],
    "aten::full": [(aten.full.default, ([4, 6], 2.5), {}), (aten.full.default, ([3, 5], 1), {})],
    "aten::full_like": unary(aten.full_like.default, 3.0),
    "aten::linspace": [(aten.linspace.default, (0.0, 1.0, 5), {})],
    "aten::new_full": [(aten.new_full.default, (t(3), [4, 6], 2.0), {})],
    "aten::new_ones": [(aten.new_ones.default, (t(4, 4), [4, 6]), {})],
    "aten::new_zeros": [(aten.new_zeros.default, (t(3), [5, 6]), {})],
    "aten::ones": [(aten.ones.default, ([4, 6],), {})],
    "aten::ones_like": unary(aten.ones_like.default),
    "aten::scalar_tensor": [(aten.scalar_tensor.default, (2.0,), {})],
    "aten::zeros": [(aten.zeros.default, ([5, 6],), {})],
    "aten::zeros_like": unary(aten.zeros_like.default),
    # indexing
    "aten::_unsafe_index.Tensor": [(aten._unsafe_index.Tensor, (t(4, 8, 6), [None, ints(8, 5)]), {})],
    "aten::_unsafe_index_put": [(aten._unsafe_index_put.default, (t(4, 8, 6), [None, ints(8, 1)], t(4, 1, 6)), {})],
    "aten::gather": [
        (aten.gather.default, (t(4, 8, 6), 1, ints(8, 4, 3, 6)), {}),
        (aten.gather.default, (t(5, 7), 1, ints(7, 3, 7)), {}),
    ],
    "aten::index.Tensor": [
        (aten.index.Tensor, (t(4, 8, 6), [ints(4, 5)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [None, ints(8, 5, 2)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [ints(4, 5, 1), ints(8, 3)]), {}),
        (aten.index.Tensor, (t(4, 8, 6), [ints(4, 5), None, ints(6, 5)]), {}),
    ],
    "aten::index_add": [(aten.index_add.default, (t(4, 8, 6), 1, ints(8, 3), t(4, 3, 6)), {})],
    "aten::index_copy": [(aten.index_copy.default, (t(4, 8, 6), 1, torch.tensor([2, 5, 7]), t(4, 3, 6)), {})],
    "aten::index_fill.int_Scalar": [(aten.index_fill.int_Scalar, (t(4, 8, 6), 1, ints(8, 3), 2.0), {})],
    "aten::index_put": [
        (aten.index_put.default, (t(4, 8, 6), [None, torch.tensor([1, 5])], t(4, 2, 6)), {}),
        (aten.index_put.default, (t(4, 8, 6), [None, None, torch.tensor([3])], t(4, 8, 1)), {}),
        (aten.index_put.default, (t(4, 8, 6), [ints(4, 5), ints(8, 5)], t(5, 6), True), {}),
    ],
    "aten::index_select": [(aten.index_select.default, (t(4, 8, 6), 1, ints(8, 6)), {})],
    "aten::scatter.src": [(aten.scatter.src, (t(4, 8, 6), 1, ints(8, 4, 1, 6), t(4, 1, 6)), {})],
    "aten::scatter.value": [(aten.scatter.value, (t(4, 8), 1, ints(8, 4, 2), 1.0), {})],
    "aten::scatter_add": [
        (aten.scatter_add.default, (t(4, 8, 6), 1, ints(8, 4, 3, 6), t(4, 3, 6)), {}),
        (aten.scatter_add.default, (t(5, 7), 0, ints(5, 3, 6), t(3, 6)), {}),
    ],
    "aten::scatter_reduce.two": [
        (aten.scatter_reduce.two, (t(4, 8), 1, ints(8, 4, 3), t(4, 3), "amax"), {}),
    ],
    # matmul
    "aten::addbmm": [(aten.addbmm.default, (t(4, 6), t(3, 4, 5), t(3, 5, 6)), {})],
    "aten::addmm": [
        (aten.addmm.default, (t(6), t(4, 8), t(8, 6)), {}),
        (aten.addmm.default, (t(4, 6), t(4, 8), t(8, 6)), {"beta": 0.5, "alpha": 2.0}),
        (aten.addmm.default, (t(7), t(3, 5), t(5, 7)), {}),
    ],
    "aten::addmv": [(aten.addmv.default, (t(4), t(4, 6), t(6)), {})],
    "aten::addr": [(aten.addr.default, (t(4, 6), t(4), t(6)), {})],
    "aten::baddbmm": [
        (aten.baddbmm.default, (t(2, 4, 6), t(2, 4, 5), t(2, 5, 6)), {}),
        (aten.baddbmm.default, (t(1, 4, 6), t(2, 4, 5), t(2, 5, 6)), {}),
    ],
    "aten::bilinear": [(aten.bilinear.default, (t(3, 4), t(3, 6), t(8, 4, 6), t(8)), {})],
    "aten::bmm": [(aten.bmm.default, (t(4, 3, 8), t(4, 8, 5)), {}), (aten.bmm.default, (t(3, 1, 7), t(3, 7, 2)), {})],
    "aten::dot": [(aten.dot.default, (t(8), t(8, seed=1)), {}), (aten.dot.default, (t(5), t(5, seed=1)), {})],
    "aten::einsum": [
        (aten.einsum.default, ("bij,kj->ibk", [t(2, 3, 8), t(4, 8)]), {}),
        (aten.einsum.default, ("...d,de", [t(3, 2, 4), t(4, 6)]), {}),
    ],
    "aten::linear": [
        (aten.linear.default, (t(2, 5, 8), t(12, 8), t(12)), {}),
        (aten.linear.default, (t(3, 7), t(5, 7)), {}),
        (aten.linear.default, (t(8), t(6, 8), t(6)), {}),
    ],
    "aten::matmul": [
        (aten.matmul.default, (t(2, 5, 8), t(8, 6)), {}),
        (aten.matmul.default, (t(2, 1, 5, 8), t(4, 8, 6)), {}),
        (aten.matmul.default, (t(8), t(8, 6)), {}),
        (aten.matmul.default, (t(3, 5, 8), t(8)), {}),
        (aten.matmul.default, (t(7), t(7)), {}),
    ],
    "aten::mm": [(aten.mm.default, (t(4, 8), t(8, 6)), {}), (aten.mm.default, (t(1, 5), t(5, 3)), {})],
    "aten::mv": [(aten.mv.default, (t(4, 8), t(8)), {})],
    "aten::outer": [(aten.outer.default, (t(4), t(6)), {})],
    "aten::vdot": [(aten.vdot.default, (t(8), t(8, seed=2)), {})],
    # norms
    "aten::_batch_norm_no_update": bn(aten._batch_norm_no_update.default, 0.1, 1e-5),
    "aten::_batch_norm_with_update_functional": bn(aten._batch_norm_with_update_functional.default, 0.1, 1e-5),
    "aten::_fused_rms_norm": [],
    "aten::_native_batch_norm_legit.no_stats": bn(aten._native_batch_norm_legit.no_stats, True, 0.1, 1e-5, stats=False),
    "aten::_native_batch_norm_legit_functional": [
        *bn(aten._native_batch_norm_legit_functional.default, True, 0.1, 1e-5),
        *bn(aten._native_batch_norm_legit_functional.default, False, 0.1, 1e-5),
    ],
    "aten::_native_batch_norm_legit_no_training": bn(aten._native_batch_norm_legit_no_training.default, 0.1, 1e-5),
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
    "aten::native_layer_norm": norm_samples(aten.native_layer_norm.default, 1e-5),
    "aten::rms_norm": norm_samples(aten.rms_norm.default, 1e-6, bias=False),
    # pointwise
    "aten::__and__": [(aten.__and__.Tensor, (ints(9, 4, 6), ints(9, 6)), {})],
    "aten::__lshift__": [(aten.__lshift__.Tensor, (ints(9, 4, 6), ints(3, 6)), {})],
    "aten::__or__": [
        (aten.__or__.Tensor, (ints(9, 4, 6), ints(9, 6)), {}),
        (aten.__or__.Scalar, (ints(9, 5, 6), 3), {}),
    ],
    "aten::__rshift__": [(aten.__rshift__.Tensor, (ints(9, 4, 6), ints(3, 6)), {})],
    "aten::__xor__": [(aten.__xor__.Tensor, (ints(9, 4, 6), ints(9, 4, 1)), {})],
    "aten::_conj": [(aten._conj.default, (torch.complex(t(4, 6), t(4, 6)),), {})],
    "aten::_to_copy": [
        *unary(aten._to_copy.default, dtype=torch.float64),
        *unary(aten._to_copy.default, dtype=torch.long),
    ],
    "aten::add.Tensor": [*binary(aten.add.Tensor), *binary(aten.add.Tensor, alpha=2), *unary(aten.add.Tensor, 1.5)],
    "aten::alias": unary(aten.alias.default),
    "aten::alias_copy": unary(aten.alias_copy.default),
    "aten::clone": unary(aten.clone.default, memory_format=torch.contiguous_format),
    "aten::contiguous": unary(aten.contiguous.default),
    "aten::copy": binary(aten.copy.default)[:4],
    "aten::detach": unary(aten.detach.default),
    "aten::detach_copy": unary(aten.detach_copy.default),
    "aten::div.Scalar": unary(aten.div.Scalar, 3),
    "aten::div.Tensor": [
        *binary(aten.div.Tensor),
        *unary(aten.div.Tensor, 4.0),
        (aten.div.Tensor, (ints(9, 4, 6), 2), {}),
    ],
    "aten::div.Tensor_mode": [
        (aten.div.Tensor_mode, (t(4, 6), t(6)), {"rounding_mode": "floor"}),
        (aten.div.Tensor_mode, (t(4, 6), t(6)), {"rounding_mode": None}),
    ],
    "aten::divide.Tensor": binary(aten.divide.Tensor),
    "aten::dropout": unary(aten.dropout.default, 0.5, False),
    "aten::lift_fresh_copy": unary(aten.lift_fresh_copy.default),
    "aten::masked_fill.Scalar": [
        (aten.masked_fill.Scalar, (t(4, 8, 6), t(8, 6) > 0, 0), {}),
        (aten.masked_fill.Scalar, (t(4, 8, 6), t(4, 1, 6) > 0, -1e4), {}),
    ],
    "aten::mul.Scalar": unary(aten.mul.Scalar, 3),
    "aten::mul.Tensor": [*binary(aten.mul.Tensor), *unary(aten.mul.Tensor, 2.0)],
    "aten::multiply.Tensor": binary(aten.multiply.Tensor),
    "aten::native_dropout": unary(aten.native_dropout.default, 0.5, False),
    "aten::neg": unary(aten.neg.default),
    "aten::negative": unary(aten.negative.default),
    "aten::one_hot": [],
    "aten::rsub.Tensor": binary(aten.rsub.Tensor),
    "aten::sub.Tensor": [*binary(aten.sub.Tensor), *unary(aten.sub.Tensor, 1.5)],
    "aten::subtract.Tensor": binary(aten.subtract.Tensor),
    "aten::to.device": unary(aten.to.device, torch.device("cpu"), torch.float64),
    "aten::to.dtype": [*unary(aten.to.dtype, torch.float64), *unary(aten.to.dtype, torch.bool)],
    "aten::to.dtype_layout": unary(aten.to.dtype_layout, dtype=torch.float64),
    "aten::to.other": [(aten.to.other, (t(4, 6), t(3).double()), {})],
    "aten::type_as": [(aten.type_as.default, (t(5, 6), t(4, 2).double()), {})],
    "aten::where.self": [
        (aten.where.self, (t(4, 8) > 0, t(4, 8), t(8)), {}),
        (aten.where.self, (t(5, 1) > 0, t(5, 7), t()), {}),
    ],
    # reductions
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
    # slicing and joining
    "aten::cat": [
        *cat_list(aten.cat.default, 1),
        *cat_list(aten.cat.default, -1),
        (aten.cat.default, ([t(4, 2), t(4, 5), t(4, 1)], 1), {}),
        (aten.cat.default, ([t(0), t(4, 5)], 1), {}),
    ],
    "aten::concat": cat_list(aten.concat.default, 0),
    "aten::concatenate": cat_list(aten.concatenate.default, 0),
    "aten::chunk": [*split_samples(aten.chunk.default, lambda n: 2), (aten.chunk.default, (t(12, 2), 3), {})],
    "aten::constant_pad_nd": [
        (aten.constant_pad_nd.default, (t(4, 6, 8), [1, 0]), {}),
        (aten.constant_pad_nd.default, (t(4, 6, 8), [0, 0, 1, 2], 3.0), {}),
    ],
    "aten::diagonal": [(aten.diagonal.default, (t(4, 6, 6), 0, 1, 2), {})],
    "aten::diagonal_copy": [(aten.diagonal_copy.default, (t(4, 6, 6), 0, 1, 2), {})],
    "aten::flip": unary(aten.flip.default, [1]),
    "aten::narrow": [(aten.narrow.default, (t(*s), 1, 1, 4), {}) for s in SHAPES],
    "aten::narrow_copy": [(aten.narrow_copy.default, (t(4, 8), 1, 2, 4), {})],
    "aten::pad": [
        (aten.pad.default, (t(4, 6, 8), [1, 1]), {}),
        (aten.pad.default, (t(4, 6, 8), [1, 1], "reflect"), {}),
    ],
    "aten::roll": unary(aten.roll.default, [1], [1]),
    "aten::select.int": along(aten.select.int, 0),
    "aten::select_copy.int": along(aten.select_copy.int, -1),
    "aten::select_scatter": [(aten.select_scatter.default, (t(4, 8, 6), t(4, 6), 1, 3), {})],
    "aten::slice.Tensor": [
        (aten.slice.Tensor, args, {})
        for args in (
            (t(4, 8, 12), 1, 0, 9223372036854775807),
            (t(4, 8, 12), 1, 2, 6),
            (t(4, 8, 12), -1, 3, 9223372036854775807),
            (t(3, 7), 1, -3),
            (t(3, 8), 1, 0, 8, 2),
            (t(5, 1), 1, 0, 1),
        )
    ],
    "aten::slice_copy.Tensor": [(aten.slice_copy.Tensor, (t(4, 8), 1, 2, 6), {})],
    "aten::slice_scatter": [(aten.slice_scatter.default, (t(4, 8, 6), t(4, 3, 6), 1, 2, 5), {})],
    "aten::split.Tensor": split_samples(aten.split.Tensor, lambda n: max(n // 2, 1)),
    "aten::split.sizes": split_samples(aten.split.sizes, lambda n: [n - 2, 2]),
    "aten::split_copy.Tensor": split_samples(aten.split_copy.Tensor, lambda n: max(n // 2, 1)),
    "aten::split_with_sizes": [
        *split_samples(aten.split_with_sizes.default, lambda n: [n - 3, 2, 1]),
        (aten.split_with_sizes.default, (t(3, 20), [12, 4, 4], 1), {}),
    ],
    "aten::split_with_sizes_copy": split_samples(aten.split_with_sizes_copy.default, lambda n: [n - 2, 2]),
    "aten::stack": cat_list(aten.stack.default, 1),
    "aten::tensor_split.indices": [(aten.tensor_split.indices, (t(4, 8), [2, 5], 1), {})],
    "aten::tensor_split.sections": [(aten.tensor_split.sections, (t(4, 9), 2, 1), {})],
    "aten::tril": unary(aten.tril.default),
    "aten::triu": unary(aten.triu.default, 1),
    "aten::unbind.int": [(aten.unbind.int, (t(3, 4, 8), 0), {}), (aten.unbind.int, (t(4, 3, 5), 1), {})],
    "aten::unbind_copy.int": [(aten.unbind_copy.int, (t(3, 4, 8), 0), {})],
    "aten::unfold": [(aten.unfold.default, (t(4, 8, 6), 1, 3, 2), {})],
    "aten::unfold_copy": [(aten.unfold_copy.default, (t(4, 8), 1, 3, 2), {})],
    "aten::unsafe_chunk": [(aten.unsafe_chunk.default, (t(4, 8), 2, 1), {})],
    "aten::unsafe_split.Tensor": [(aten.unsafe_split.Tensor, (t(4, 8), 4, 1), {})],
    # views
    "aten::_reshape_alias": [],
    "aten::_reshape_copy": [(aten._reshape_copy.default, (t(4, 6), [24]), {})],
    "aten::_unsafe_view": [(aten._unsafe_view.default, (t(4, 6, 8), [4, 48]), {})],
    "aten::broadcast_to": [(aten.broadcast_to.default, (t(4, 1), [3, 4, 6]), {})],
    "aten::expand": [
        (aten.expand.default, (t(4, 1, 6), [4, 8, 6]), {}),
        (aten.expand.default, (t(5, 1), [3, -1, 7]), {}),
    ],
    "aten::expand_as": [(aten.expand_as.default, (t(4, 1), t(4, 6)), {})],
    "aten::expand_copy": [(aten.expand_copy.default, (t(4, 1), [4, 6]), {})],
    "aten::flatten.using_ints": [
        (aten.flatten.using_ints, (t(*s), a, b), {}) for s in SHAPES for a, b in ((0, -1), (1, 2), (0, 1))
    ],
    "aten::mT": perm(aten.mT.default),
    "aten::movedim.int": perm(aten.movedim.int, 0, 2),
    "aten::movedim.intlist": perm(aten.movedim.intlist, [0, 1], [1, 2]),
    "aten::numpy_T": [(aten.numpy_T.default, (t(4, 6),), {})],
    "aten::permute": perm(aten.permute.default, [2, 0, 1]),
    "aten::permute_copy": perm(aten.permute_copy.default, [0, 2, 1]),
    "aten::ravel": perm(aten.ravel.default),
    "aten::repeat": [(aten.repeat.default, (t(4, 6), [2, 1, 3]), {}), (aten.repeat.default, (t(5, 1), [1, 4]), {})],
    "aten::repeat_interleave.self_int": [
        (aten.repeat_interleave.self_int, (t(2, 4, 6), 3, 1), {}),
        (aten.repeat_interleave.self_int, (t(3, 5), 2, -1), {}),
    ],
    "aten::reshape": [
        (aten.reshape.default, (t(4, 6, 8), [24, 8]), {}),
        (aten.reshape.default, (t(4, 6, 8), [4, -1]), {}),
        (aten.reshape.default, (t(2, 48), [2, 6, 8]), {}),
        (aten.reshape.default, (t(6, 4), [4, 6]), {}),
        (aten.reshape.default, (t(2, 4, 1, 3), [2, 1, 12]), {}),
    ],
    "aten::reshape_as": [(aten.reshape_as.default, (t(4, 6), t(24)), {})],
    "aten::squeeze": [
        (aten.squeeze.default, (t(4, 1, 6),), {}),
        (aten.squeeze.default, (t(1, 4, 3),), {}),
        (aten.squeeze.dim, (t(4, 1, 6), 1), {}),
        (aten.squeeze.dim, (t(4, 2, 6), 1), {}),
        (aten.squeeze.dims, (t(1, 4, 1), [0, 2]), {}),
    ],
    "aten::squeeze_copy": [(aten.squeeze_copy.dim, (t(4, 1, 6), 1), {})],
    "aten::swapaxes": perm(aten.swapaxes.default, 0, 1),
    "aten::swapdims": perm(aten.swapdims.default, 0, 1),
    "aten::t": [(aten.t.default, (t(4, 6),), {}), (aten.t.default, (t(5),), {})],
    "aten::t_copy": [(aten.t_copy.default, (t(4, 6),), {})],
    "aten::tile": [(aten.tile.default, (t(4, 6), [2, 1]), {})],
    "aten::transpose.int": perm(aten.transpose.int, -1, 1),
    "aten::transpose_copy.int": perm(aten.transpose_copy.int, 0, 1),
    "aten::unflatten.int": [
        (aten.unflatten.int, (t(2, 12, 3), 1, [4, 3]), {}),
        (aten.unflatten.int, (t(3, 10), -1, [-1, 2]), {}),
    ],
    "aten::unsqueeze": perm(aten.unsqueeze.default, 1),
    "aten::unsqueeze_copy": perm(aten.unsqueeze_copy.default, -1),
    "aten::view": [
        (aten.view.default, (t(4, 6, 8), [24, 8]), {}),
        (aten.view.default, (t(4, 6, 8), [-1, 8]), {}),
        (aten.view.default, (t(3, 5, 8), [3, 5, 2, 4]), {}),
        (aten.view.default, (t(2, 3, 20), [2, 3, 5, 4]), {}),
    ],
    "aten::view.dtype": [(aten.view.dtype, (t(4, 6), torch.int32), {})],
    "aten::view_as": [(aten.view_as.default, (t(4, 6), t(24)), {})],
    "aten::view_as_complex": [(aten.view_as_complex.default, (t(4, 6, 2),), {})],
    "aten::view_as_real": [(aten.view_as_real.default, (torch.complex(t(4, 6), t(4, 6)),), {})],
    "aten::view_copy": [(aten.view_copy.default, (t(4, 6), [24]), {})],
}
"""Operator name → sample calls. An empty list: the result is uninitialised memory, or the operator needs a GPU."""
