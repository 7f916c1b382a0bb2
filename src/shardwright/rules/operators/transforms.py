"""Fourier transforms and their like: the dims that are transformed are whole, the others pass; linear throughout."""

from shardwright.rules.operators.dims import dim_of, dims_of, named_dims, put
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Rule, Term


def transform_rule(*default: int, all_dims: bool = False) -> Entry:
    """Transformed along ``dim``, else along ``default`` (``all_dims``: along every dim)."""

    def build(call: Call) -> Rule:
        shape = call.operands[0].shape
        source, sizes = named_dims(shape)
        given = call.arguments.get("dim")
        if given is not None:
            along = set(dims_of(call, len(shape), "dim"))
        else:
            count = len(call.arguments.get("s") or ()) or (len(shape) if all_dims else 0)
            along = set(range(len(shape) - count, len(shape))) if count else {d % len(shape) for d in default}
        result = source
        for dim in along:
            sizes[f"t{dim}"] = call.result.shape[dim]
            result = put(result, dim, Term((f"t{dim}",)))
        fixed = frozenset(f"{p}{dim}" for dim in along for p in "dt")
        return Rule((source,), (result,), sizes, fixed, linear=(frozenset({0}),))

    return Entry(build)


def diff_rule(call: Call) -> Rule | None:
    """``diff``: one shorter along a dim, which is whole; what is put before or after it is too."""
    source, sizes = named_dims(call.operands[0].shape)
    dim = dim_of(call, len(source), default=-1)
    operands = []
    for index, tensor in enumerate(call.operands):
        sizes[f"x{index}"] = tensor.shape[dim]
        operands.append(put(source, dim, Term((f"x{index}",))))
    sizes["t"] = call.result.shape[dim]
    del sizes[f"d{dim}"]
    fixed = frozenset({"t", *(f"x{index}" for index in range(len(call.operands)))})
    together = frozenset(range(len(operands)))
    return Rule(tuple(operands), (put(source, dim, Term(("t",))),), sizes, fixed, linear=(together,))


def gradient_rule(call: Call) -> Rule:
    """``gradient``: one result for every dim it works along, which is whole; coordinates of a dim are too."""
    dims, sizes = named_dims(call.operands[0].shape)
    along = dims_of(call, len(dims), "dim")
    sides = []
    for index, tensor in enumerate(call.operands[1:]):
        side, own = named_dims(tensor.shape, f"x{index}")
        sizes.update(own)
        sides.append(side)
    fixed = frozenset({*(f"d{dim}" for dim in along), *(name for name in sizes if name[0] == "x")})
    return Rule((dims, *sides), (dims,) * len(call.results), sizes, fixed, linear=(frozenset({0}),))


_ONE, _TWO, _ALL = transform_rule(-1), transform_rule(-2, -1), transform_rule(all_dims=True)

RULES: dict[str, Entry] = {
    "aten::_fft_c2c": _ONE,
    "aten::_fft_c2r": _ONE,
    "aten::_fft_r2c": _ONE,
    "aten::diff": Entry(diff_rule),
    "aten::fft_fft": _ONE,
    "aten::fft_fft2": _TWO,
    "aten::fft_fftn": _ALL,
    "aten::fft_fftshift": _ALL,
    "aten::fft_hfft": _ONE,
    "aten::fft_hfft2": _TWO,
    "aten::fft_hfftn": _ALL,
    "aten::fft_ifft": _ONE,
    "aten::fft_ifft2": _TWO,
    "aten::fft_ifftn": _ALL,
    "aten::fft_ifftshift": _ALL,
    "aten::fft_ihfft": _ONE,
    "aten::fft_ihfft2": _TWO,
    "aten::fft_ihfftn": _ALL,
    "aten::fft_irfft": _ONE,
    "aten::fft_irfft2": _TWO,
    "aten::fft_irfftn": _ALL,
    "aten::fft_rfft": _ONE,
    "aten::fft_rfft2": _TWO,
    "aten::fft_rfftn": _ALL,
    "aten::gradient": Entry(gradient_rule),
}

UNSUPPORTED: dict[str, str] = {
    "aten::istft": "its frames overlap along the only dim",
    "aten::stft": "its frames overlap along the last dim",
}
