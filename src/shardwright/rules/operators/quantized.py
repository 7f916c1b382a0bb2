"""Quantised operators: scales and zero points are cut along with what they scale."""

from shardwright.layout.sizes import Size
from shardwright.rules.local import run_dense
from shardwright.rules.operators.copies import CAST
from shardwright.rules.operators.dims import named_dims
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Dims, Rule, Term

_BLOCK = 64
"""Rows that one block of packed 4-bit weights holds: such weights come apart between blocks only."""


def per_channel_rule(call: Call) -> Rule:
    """Scales and zero points of one dim lie along it."""
    dims, sizes = named_dims(call.operands[0].shape)
    axis = int(call["axis"]) % len(dims)
    operands: tuple[Dims, ...] = (dims, *((dims[axis],) for _ in call.operands[1:]))
    return Rule(operands, (dims,), sizes)


def per_tensor_rule(call: Call) -> Rule:
    """One scale for all: every dim may be cut."""
    dims, sizes = named_dims(call.operands[0].shape)
    return Rule((dims, *(((Term(),) * t.ndim) for t in call.operands[1:])), (dims,), sizes)


def per_row_rule(call: Call) -> Rule:
    """One scale for every row (a token)."""
    dims, sizes = named_dims(call.operands[0].shape)
    operands: tuple[Dims, ...] = (dims, *((*dims[:-1], Term())[-t.ndim :] for t in call.operands[1:]))
    return Rule(operands, (dims,), sizes)


def per_group_rule(call: Call) -> Rule | None:
    """Scales and zero points for groups within rows: a matrix of them, or all in one dim."""
    rows, columns = call.operands[0].shape
    within = min(int(call["group_size"]), columns)
    sizes: dict[str, Size] = {"n": rows, "g": columns // within, "w": within}
    n, g = Term(("n",)), Term(("g",))
    if any(t.ndim > 2 for t in call.operands[1:]):
        return None
    entries = tuple((n, g) if t.ndim == 2 else (Term(("n", "g")),) for t in call.operands[1:])
    data = (n, Term(("g", "w")))
    return Rule((data, *entries), (data,), sizes, frozenset({"w"}))


def whole_choice_rule(call: Call) -> Rule:
    """Scale and zero point for all of a tensor: it is whole."""
    dims, sizes = named_dims(call.operands[0].shape)
    results = tuple(None if one is None else (Term(),) * one.ndim for one in call.results)
    return Rule((dims,), results, sizes, frozenset(sizes))


def row_choice_rule(call: Call) -> Rule:
    """Scale and zero point for every row, which is whole."""
    dims, sizes = named_dims(call.operands[0].shape)
    entry = (*dims[:-1], Term())
    return Rule((dims,), (entry, entry), sizes, frozenset(dims[-1].factors))


def int4_rule(call: Call) -> Rule | None:
    """``_weight_int4pack_mm_for_cpu``: rows of the packed weight come in blocks; scales are ``groups n two``."""
    weight, scales = call.operands[1], call.operands[2]
    rows = weight.shape[0]
    if not isinstance(rows, int):
        return None
    within = _BLOCK if rows % _BLOCK == 0 else rows
    sizes: dict[str, Size] = {"m": call.operands[0].shape[0], "k": call.operands[0].shape[1], "p": weight.shape[1]}
    sizes.update(b=rows // within, w=within, g=scales.shape[0], two=2)
    m, k, p, g, two = (Term((name,)) for name in ("m", "k", "p", "g", "two"))
    n = Term(("b", "w"))
    return Rule(
        ((m, k), (n, p), (g, n, two)), ((m, n),), sizes, frozenset({"k", "p", "w", "g", "two"}), localize=run_dense
    )


def scaled_mm_rule(call: Call) -> Rule | None:
    """``_scaled_mm``: scales for all, or for every row of the left and column of the right side; columns' bias."""
    left, right, scale_a, scale_b, *rest = call.operands
    sizes: dict[str, Size] = {"m": left.shape[0], "k": left.shape[1], "n": right.shape[1]}
    m, k, n, one = Term(("m",)), Term(("k",)), Term(("n",)), Term()
    by_row = scale_a.shape == (left.shape[0], 1) and scale_b.shape == (1, right.shape[1]) and left.shape[0] != 1
    by_all = all(size == 1 for size in (*scale_a.shape, *scale_b.shape))
    if not (by_row or by_all) or len(rest) > 1 or call.arguments.get("scale_result") is not None:
        return None
    a: Dims = (m, one) if by_row else (one,) * scale_a.ndim
    b: Dims = (one, n) if by_row else (one,) * scale_b.ndim
    bias: tuple[Dims, ...] = ((n,),) if rest else ()
    fixed = frozenset({"k"}) if rest else frozenset()
    return Rule(((m, k), (k, n), a, b, *bias), ((m, n),), sizes, fixed, reduces={"k": "sum"})


_CHANNEL, _TENSOR, _ROW = Entry(per_channel_rule), Entry(per_tensor_rule), Entry(per_row_rule)
_GROUP, _CHOICE, _ROW_CHOICE = Entry(per_group_rule), Entry(whole_choice_rule), Entry(row_choice_rule)

RULES: dict[str, Entry] = {
    "aten::_int_mm": einsum("m k, k n -> m n"),
    "aten::_scaled_mm": Entry(scaled_mm_rule),
    "aten::_weight_int4pack_mm_for_cpu": Entry(int4_rule),
    "aten::_weight_int8pack_mm": einsum("m k, n k, n -> m n", linear=((0,),), localize=run_dense),
    "aten::fake_quantize_per_channel_affine": _CHANNEL,
    "aten::fake_quantize_per_tensor_affine": _TENSOR,
    "quantized_decomposed::_choose_qparams_per_token_asymmetric_impl": _ROW_CHOICE,
    "quantized_decomposed::choose_qparams": _CHOICE,
    "quantized_decomposed::choose_qparams_per_token": _ROW_CHOICE,
    "quantized_decomposed::choose_qparams_per_token_asymmetric": _ROW_CHOICE,
    "quantized_decomposed::choose_qparams_symmetric": _CHOICE,
    "quantized_decomposed::convert_element_type": CAST,
    "quantized_decomposed::dequantize_per_channel": _CHANNEL,
    "quantized_decomposed::dequantize_per_channel_group": _GROUP,
    "quantized_decomposed::dequantize_per_tensor": _TENSOR,
    "quantized_decomposed::dequantize_per_token": _ROW,
    "quantized_decomposed::fake_quant_per_channel": _CHANNEL,
    "quantized_decomposed::quantize_per_channel": _CHANNEL,
    "quantized_decomposed::quantize_per_channel_group": _GROUP,
    "quantized_decomposed::quantize_per_tensor": _TENSOR,
    "quantized_decomposed::quantize_per_token": _ROW,
}

UNSUPPORTED: dict[str, str] = {
    "aten::_weight_int4pack_mm": "its packed weight interleaves rows in a layout that differs by device",
    "aten::_weight_int4pack_mm_with_scales_and_zeros": "its packed weight interleaves rows in a layout of its device",
}
