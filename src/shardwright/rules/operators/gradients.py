"""Gradients: what autograd calls for an operator's operands, once it knows the gradient of the result.

Each is linear in that gradient, which comes first, and is cut like the operator whose gradient it is; only where its
dims differ from those of the operator, or a mean is taken, it has a rule of its own here.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from shardwright.layout.sizes import Size, product
from shardwright.rules.local import dense, local_sizes, run_dense
from shardwright.rules.operators.attention import mask_dims
from shardwright.rules.operators.convolution import spatial_rule
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.operators.lookup import look_up, without_others
from shardwright.rules.operators.losses import MEAN, NONE, SUM, local_nll
from shardwright.rules.operators.norms import layer_norm_backward_rule
from shardwright.rules.operators.pointwise import adds_up, pointwise
from shardwright.rules.operators.slicing import local_slice_scatter, slice_scatter_dims
from shardwright.rules.registry import Entry, notation_rule
from shardwright.rules.rule import Call, Dims, Local, Rule, TensorMeta, Term

aten = torch.ops.aten
_FIRST = (frozenset({0}),)


def attention_backward_rule(call: Call) -> Rule | None:
    """The gradients of attention in its forms: cut by batch and heads, queries with their key-value group or in it.

    A share of every group's queries gives a part of the sums that the gradients of keys and values are. None with
    dropout, or where heads do not group.
    """
    query, key, value = (call[name] for name in ("query", "key", "value"))
    if call["dropout_p"] or query.ndim != 4 or not _is_grouped(query.shape[1], key.shape[1]):
        return None
    sizes: dict[str, Size] = {"b": query.shape[0], "g": key.shape[1]}
    head = Term(("g",))
    if query.shape[1] != key.shape[1]:
        sizes["r"] = query.shape[1] // key.shape[1]
        head = Term(("g", "r"))
    sizes.update(s=query.shape[2], t=key.shape[2], d=query.shape[3], v=value.shape[3])
    b, g, s, t, d, v = (Term((name,)) for name in "bgstdv")
    q, k, values, out, scores = (b, head, s, d), (b, g, t, d), (b, g, t, v), (b, head, s, v), (b, head, s, t)
    forms: dict[str, Dims] = {"grad_out": out, "grad_out_": out, "query": q, "key": k, "value": values, "out": out}
    operands: list[Dims] = []
    for name, given in call.arguments.items():
        if not isinstance(given, TensorMeta):
            continue
        if name == "logsumexp":
            # Kernels lay it out with more rows than there are queries, or one more dim.
            rest = tuple(s if size == query.shape[2] else Term() for size in given.shape[2:])
            operands.append((b, head, *rest))
        elif name in _MASKS and given.ndim > 1:
            operands.append(mask_dims(given.shape, scores, sizes))
        else:
            operands.append(forms.get(name, (Term(),) * given.ndim))
    mask = next((call.arguments[name] for name in _MASKS if call.arguments.get(name) is not None), None)
    results: list[Dims | None] = [q, k, values]
    if len(call.results) > len(results):
        own = None if call.results[3] is None else call.results[3].shape
        if own is not None and (mask is None or own != mask.shape):
            return None
        results.append(None if own is None else mask_dims(own, scores, sizes))
    names = "".join(sizes)
    queries, weights = tuple(names.replace("v", "")), tuple(names.replace("d", ""))
    products = (queries, queries, queries, weights, weights)
    return Rule(tuple(operands), tuple(results), sizes, frozenset("stdv"), linear=_FIRST, multiplies=products)


_MASKS = ("attn_mask", "attn_bias")


def _is_grouped(heads: Size, kv_heads: Size) -> bool:
    known = isinstance(heads, int) and isinstance(kv_heads, int)
    return heads == kv_heads or (known and heads % kv_heads == 0)


def softmax_backward_rule(call: Call) -> Rule:
    """``_softmax_backward_data`` and its logarithm's: all dims but the one along which the softmax was taken."""
    dims, sizes = named_dims(call.operands[0].shape)
    fixed = frozenset({f"d{dim_of(call, len(dims))}"} if dims else ())
    linear = _FIRST if adds_up(call.operands[0].dtype, call.result.dtype) else ()
    return Rule((dims, dims), (dims,), sizes, fixed, linear=linear)


def elementwise_loss_backward(call: Call) -> Rule | None:
    """The gradient of a loss of every element; of a mean, divided by the number of all elements."""
    shapes = [t.shape for t in call.operands]
    known = all(isinstance(size, int) for shape in shapes for size in shape)
    localize = _local_share if call["reduction"] == MEAN else None
    if localize is not None and not known:
        return None
    text = f"{', '.join(['...'] * len(shapes))} -> ..."
    return notation_rule(text, [*shapes], [call.result.shape], linear=_FIRST, localize=localize)


def _local_share(local: Local) -> Any:
    """The gradient of a sum over the number of all summands, which the pieces do not know."""
    count = product(int(size) for size in local.call.result.shape)
    return local.run(aten.div.Scalar, local.run_call(reduction=SUM), count)


def nll_backward_rule(call: Call) -> Rule | None:
    """``nll_loss_backward``: rows are cut, or classes: then a row has its gradient where its class is.

    The total weight that a mean divides by is an operand, so it is that of all rows.
    """
    source, target = call.operands[1], call.operands[2]
    space = " ".join(f"s{i}" for i in range(max(source.ndim - 2, 0)))
    rows = f"n {space}" if source.ndim > 1 else ""
    classes = f"n c {space}" if source.ndim > 1 else "c"
    given = rows if call["reduction"] == NONE and call.operands[0].ndim else ""
    weight = ["c"] if call.arguments.get("weight") is not None else []
    own = [given, classes, rows if target.ndim else "", *weight, " ".join(["1"] * call.operands[-1].ndim)]
    shapes = [t.shape for t in call.operands]
    if not isinstance(source.shape[min(source.ndim - 1, 1)], int):
        own = [part.replace("c", "c!") for part in own]
    return notation_rule(
        f"{', '.join(own)} -> {classes}", shapes, [call.result.shape], linear=_FIRST, localize=local_nll
    )


def embedding_backward_rule(call: Call) -> Rule:
    """``embedding_dense_backward``: entries add up; features are cut, and rows, each of which gets what is its own.

    Gradients that are scaled by how often a row is read need all entries.
    """
    gradient, indices = call.operands
    entries, sizes = named_dims(indices.shape, "i")
    sizes.update(v=call.result.shape[0], d=gradient.shape[-1])
    reduces = {} if call["scale_grad_by_freq"] else {term.factors[0]: "sum" for term in entries}
    fixed = set() if reduces or not entries else {term.factors[0] for term in entries}
    if call["scale_grad_by_freq"] or not isinstance(call.result.shape[0], int):
        fixed |= {"v"}
    operands = ((*entries, Term(("d",))), entries)
    how: dict[str, Any] = {"reduces": reduces, "localize": local_embedding_backward}
    return Rule(operands, ((Term(("v",)), Term(("d",))),), sizes, frozenset(fixed), linear=_FIRST, multiplies=(), **how)


def local_embedding_backward(local: Local) -> Any:
    """The gradients of the rows this rank holds; the row that stands for padding has none."""
    cut = local.strategy.factor_cut("v")
    if cut is None:
        return local.run_call()
    gradient, indices, padding = (local.arguments[name] for name in ("grad_output", "indices", "padding_idx"))
    _, places, outside = look_up(local, cut, 0, gradient, indices)
    assert outside is not None, "a rank without rows has no share of the call"
    if isinstance(padding, int) and padding >= 0:
        outside = local.run(aten.logical_or.default, outside, local.run(aten.eq.Scalar, indices, padding))
    kept = without_others(local, gradient, outside, after=1)
    count = cut.local_size(local.rank)
    return local.run_call(grad_output=kept, indices=places, num_weights=count, padding_idx=-1)


def select_backward_rule(call: Call) -> Rule:
    """``select_backward``: one index of a dim, which may not be cut, and zeros at the others."""
    dims, sizes = named_dims(call.result.shape)
    dim = dim_of(call, len(dims))
    fixed = frozenset({f"d{dim}"})
    return Rule((put(dims, dim),), (dims,), sizes, fixed, linear=_FIRST, size_arg="input_sizes")


def slice_backward_rule(call: Call) -> Rule:
    """``slice_backward``: the dim is before + kept + after, the first and the last of them zeros."""
    whole, source, how = slice_scatter_dims(call, call.result.shape, call.operands[0].shape)
    return Rule((source,), (whole,), linear=_FIRST, localize=_local_slice_backward, **how)


def _local_slice_backward(local: Local) -> Any:
    local.arguments["input_sizes"] = local_sizes(local, local.arguments["input_sizes"], local.strategy.results[0])
    return local_slice_scatter(local, local.rule.results[0] or ())


def row_loss_backward(call: Call) -> Rule | None:
    """The gradient of a loss of every row, in which classes meet each other: rows are cut."""
    source = call.operands[1]
    if source.ndim != 2 or not isinstance(source.shape[0], int):
        return None
    given = "n" if call["reduction"] == NONE else ""
    own = [" ".join(["c!"] if t.shape == source.shape[1:] else ["n", "c!"][: t.ndim]) for t in call.operands[2:]]
    localize = _local_row_share if call["reduction"] == MEAN else None
    shapes = [tensor.shape for tensor in call.operands]
    text = f"{', '.join([given, 'n c!', *own])} -> n c!"
    return notation_rule(text, shapes, [call.result.shape], linear=_FIRST, localize=localize)


def _local_row_share(local: Local) -> Any:
    """The gradient of a sum over the number of all rows."""
    return local.run(aten.div.Scalar, local.run_call(reduction=SUM), int(local.call.result.shape[0]))


def batch_norm_backward_rule(call: Call) -> Rule:
    """Gradients of a batch norm: features are cut; the batch only where its statistics were given, not taken."""
    takes, shape = bool(call["train"]), call.operands[1].shape
    dims, sizes = named_dims(shape)
    channel = (dims[1],)
    operands = [dims, dims, *(channel if product(one.shape) != 0 else (Term(),) for one in call.operands[2:])]
    results = tuple(None if r is None else dims if r.ndim == len(shape) else channel for r in call.results)
    others = [name for name in sizes if name != "d1"]
    how: dict[str, Any] = {"fixed": frozenset(others)} if takes else {"reduces": dict.fromkeys(others, "sum")}
    return Rule(tuple(operands), results, sizes, linear=_FIRST, localize=run_dense, **how)


def glu_backward_rule(call: Call) -> Rule:
    """``glu_backward``: the dim is (two, own), as in ``glu``."""
    dims, sizes = named_dims(call.operands[0].shape)
    dim = dim_of(call, len(dims))
    sizes["two"] = 2
    whole = put(dims, dim, Term(("two", f"d{dim}")))
    return Rule((dims, whole), (whole,), sizes, frozenset({"two"}), linear=_FIRST)


def weight_norm_backward_rule(call: Call) -> Rule:
    """``_weight_norm_interface_backward``: the dim whose slices have a length each is cut, and no other."""
    dims, sizes = named_dims(call.operands[0].shape)
    along = f"d{int(call['dim'])}"
    lengths = tuple(term if term.factors == (along,) else Term() for term in dims)
    return Rule(
        (dims, dims, lengths, lengths),
        (dims, lengths),
        sizes,
        frozenset(sizes) - {along},
        linear=_FIRST,
        localize=run_dense,
    )


def sized_spatial_rule(call: Call) -> Rule:
    """The gradient of an interpolation, which is told the sizes of what was interpolated."""
    return replace(spatial_rule(call), localize=_local_sized_spatial)


def _local_sized_spatial(local: Local) -> Any:
    sizes = local_sizes(local, local.arguments["input_size"], local.strategy.results[0])
    return local.run_call(grad_output=dense(local, local.arguments["grad_output"]), input_size=sizes)


def gradient_of_places(call: Call) -> Rule:
    """The gradient of a pool, on dense operands: some kernels read others as if they were."""
    return replace(spatial_rule(call), localize=_local_places)


def _local_places(local: Local) -> Any:
    names = [name for name in ("grad_output", "indices") if name in local.arguments]
    return local.run_call(**{name: dense(local, local.arguments[name]) for name in names})


def linear_spatial(build: Callable[[Call], Rule]) -> Entry:
    """The gradient of something that keeps batch and channels."""
    return Entry(lambda call: replace(build(call), linear=_FIRST))


_POINTWISE, _LOSS, _NLL = pointwise((0,)), Entry(elementwise_loss_backward), Entry(nll_backward_rule)
_SPATIAL, _SIZED = linear_spatial(gradient_of_places), linear_spatial(sized_spatial_rule)
_ATTENTION, _SOFTMAX = Entry(attention_backward_rule), Entry(softmax_backward_rule)

RULES: dict[str, Entry] = {
    "aten::_adaptive_avg_pool3d_backward": _SPATIAL,
    "aten::_fused_rms_norm_backward": Entry(layer_norm_backward_rule),
    "aten::_log_softmax_backward_data": _SOFTMAX,
    "aten::_prelu_kernel_backward": _POINTWISE,
    "aten::_scaled_dot_product_cudnn_attention_backward": _ATTENTION,
    "aten::_scaled_dot_product_efficient_attention_backward": _ATTENTION,
    "aten::_scaled_dot_product_flash_attention_backward": _ATTENTION,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _ATTENTION,
    "aten::_softmax_backward_data": _SOFTMAX,
    "aten::_upsample_bicubic2d_aa_backward": _SIZED,
    "aten::_upsample_bilinear2d_aa_backward": _SIZED,
    "aten::_upsample_nearest_exact1d_backward": _SIZED,
    "aten::_upsample_nearest_exact2d_backward": _SIZED,
    "aten::_upsample_nearest_exact3d_backward": _SIZED,
    "aten::_weight_norm_interface_backward": Entry(weight_norm_backward_rule),
    "aten::adaptive_max_pool2d_backward": _SPATIAL,
    "aten::adaptive_max_pool3d_backward": _SPATIAL,
    "aten::avg_pool3d_backward": _SPATIAL,
    "aten::binary_cross_entropy_backward": _LOSS,
    "aten::elu_backward": _POINTWISE,
    "aten::embedding_dense_backward": Entry(embedding_backward_rule),
    "aten::glu_backward": Entry(glu_backward_rule),
    "aten::hardshrink_backward": _POINTWISE,
    "aten::hardsigmoid_backward": _POINTWISE,
    "aten::hardswish_backward": _POINTWISE,
    "aten::hardtanh_backward": _POINTWISE,
    "aten::huber_loss_backward": _LOSS,
    "aten::leaky_relu_backward": _POINTWISE,
    "aten::max_pool3d_with_indices_backward": _SPATIAL,
    "aten::mish_backward": _POINTWISE,
    "aten::mse_loss_backward": _LOSS,
    "aten::multi_margin_loss_backward": Entry(row_loss_backward),
    "aten::multilabel_margin_loss_backward": Entry(row_loss_backward),
    "aten::native_batch_norm_backward": Entry(batch_norm_backward_rule),
    "aten::nll_loss2d_backward": _NLL,
    "aten::nll_loss_backward": _NLL,
    "aten::reflection_pad1d_backward": _SPATIAL,
    "aten::reflection_pad2d_backward": _SPATIAL,
    "aten::reflection_pad3d_backward": _SPATIAL,
    "aten::replication_pad1d_backward": _SPATIAL,
    "aten::replication_pad2d_backward": _SPATIAL,
    "aten::replication_pad3d_backward": _SPATIAL,
    "aten::rrelu_with_noise_backward": _POINTWISE,
    "aten::select_backward": Entry(select_backward_rule),
    "aten::slice_backward": Entry(slice_backward_rule),
    "aten::smooth_l1_loss_backward": _LOSS,
    "aten::soft_margin_loss_backward": _LOSS,
    "aten::softplus_backward": _POINTWISE,
    "aten::softshrink_backward": _POINTWISE,
    "aten::upsample_bicubic2d_backward": _SIZED,
    "aten::upsample_bilinear2d_backward": _SIZED,
    "aten::upsample_linear1d_backward": _SIZED,
    "aten::upsample_nearest1d_backward": _SIZED,
    "aten::upsample_nearest2d_backward": _SIZED,
    "aten::upsample_nearest3d_backward": _SIZED,
    "aten::upsample_trilinear3d_backward": _SIZED,
}
