"""Factories: tensors made from sizes. Where every element is the same, the result may be cut freely."""

from shardwright.layout import Size
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Rule, Term


def filled_rule(call: Call) -> Rule:
    """``full``, ``zeros``, ``new_ones`` …: every dim may be cut; another operand gives only dtype and device."""
    shape = call.result.shape
    dims = tuple(Term((f"d{i}",)) for i in range(len(shape)))
    sizes: dict[str, Size] = {f"d{i}": size for i, size in enumerate(shape)}
    operands = []
    for index, tensor in enumerate(call.operands):
        own = tuple(Term((f"x{index}{i}",)) for i in range(tensor.ndim))
        sizes.update((f"x{index}{i}", size) for i, size in enumerate(tensor.shape))
        operands.append(own)
    dropped = frozenset(name for name in sizes if name.startswith("x"))
    return Rule(tuple(operands), (dims,), sizes, dropped=dropped, size_arg="size")


def counted_rule(call: Call) -> Rule:
    """``arange``, ``eye``, windows …: elements depend on their index, so no dim is cut."""
    shape = call.result.shape
    names = [f"d{i}" for i in range(len(shape))]
    sizes: dict[str, Size] = dict(zip(names, shape, strict=True))
    return Rule(tuple(() for _ in call.operands), (tuple(Term((n,)) for n in names),), sizes, frozenset(names))


_FILLED, _COUNTED, _LIKE = Entry(filled_rule), Entry(counted_rule), einsum("... -> ...")

RULES: dict[str, Entry] = {
    "aten::arange": _COUNTED,
    "aten::arange.start": _COUNTED,
    "aten::arange.start_step": _COUNTED,
    "aten::bartlett_window": _COUNTED,
    "aten::blackman_window": _COUNTED,
    "aten::empty.memory_format": _FILLED,
    "aten::empty_like": _LIKE,
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
