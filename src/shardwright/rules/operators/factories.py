"""Factories: tensors made from sizes. Where every element is the same, the result may be cut freely."""

from shardwright.rules.operators.dims import named_dims
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Rule, Term


def filled_rule(call: Call) -> Rule:
    """``full``, ``zeros``, ``new_ones`` …: every dim may be cut; another operand gives only dtype and device."""
    dims, sizes = named_dims(call.result.shape)
    operands = tuple((Term(),) * tensor.ndim for tensor in call.operands)
    return Rule(operands, (dims,), sizes, size_arg="size")


def counted_rule(call: Call) -> Rule:
    """``arange``, ``eye``, windows …: elements, or where they lie, depend on their index, so no dim is cut."""
    dims, sizes = named_dims(call.result.shape)
    operands = tuple((Term(),) * tensor.ndim for tensor in call.operands)
    return Rule(operands, (dims,), sizes, frozenset(sizes))


_FILLED, _COUNTED, _LIKE = Entry(filled_rule), Entry(counted_rule), einsum("... -> ...")

RULES: dict[str, Entry] = {
    "aten::arange": _COUNTED,
    "aten::arange.start": _COUNTED,
    "aten::arange.start_step": _COUNTED,
    "aten::bartlett_window": _COUNTED,
    "aten::blackman_window": _COUNTED,
    "aten::empty.memory_format": _FILLED,
    "aten::empty_like": _LIKE,
    "aten::empty_permuted": _FILLED,
    "aten::empty_strided": _COUNTED,
    "aten::eye": _COUNTED,
    "aten::fft_fftfreq": _COUNTED,
    "aten::fft_rfftfreq": _COUNTED,
    "aten::full": _FILLED,
    "aten::full_like": _LIKE,
    "aten::hamming_window": _COUNTED,
    "aten::hann_window": _COUNTED,
    "aten::kaiser_window": _COUNTED,
    "aten::linspace": _COUNTED,
    "aten::logspace": _COUNTED,
    "aten::new_empty": _FILLED,
    "aten::new_empty_strided": _COUNTED,
    "aten::new_full": _FILLED,
    "aten::new_ones": _FILLED,
    "aten::new_zeros": _FILLED,
    "aten::ones": _FILLED,
    "aten::ones_like": _LIKE,
    "aten::range": _COUNTED,
    "aten::scalar_tensor": _COUNTED,
    "aten::tril_indices": _COUNTED,
    "aten::triu_indices": _COUNTED,
    "aten::zeros": _FILLED,
    "aten::zeros_like": _LIKE,
}
