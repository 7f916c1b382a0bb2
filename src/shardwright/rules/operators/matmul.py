"""Matmul-like operators: a contraction over one factor, linear in each side."""

from collections.abc import Sequence

from shardwright.layout.sizes import Size
from shardwright.rules.registry import Entry, einsum, notation_rule
from shardwright.rules.rule import Call, Dims, Rule, Term


def matmul_rule(call: Call) -> Rule:
    """``torch.matmul``: vectors contract, leading dims broadcast."""
    left, right = call.operands
    a = "k" if left.ndim == 1 else "... m k"
    b = "k" if right.ndim == 1 else "... k n"
    out = " ".join(["..."] + ["m"] * (left.ndim > 1) + ["n"] * (right.ndim > 1))
    shapes = [left.shape, right.shape]
    return notation_rule(f"{a}, {b} -> {out}", shapes, [call.result.shape], linear=(frozenset({0}), frozenset({1})))


def einsum_rule(call: Call) -> Rule | None:
    """``torch.einsum``: its equation is the rule. None for diagonals (an index twice in one operand)."""
    equation = call["equation"].replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = left.split(",")
    if any(len(set(part.replace("...", ""))) != len(part.replace("...", "")) for part in operands):
        return None
    if not arrow:
        letters = [c for c in left if c.isalpha()]
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))

    def spaced(part: str) -> str:
        return " ".join(part.replace("...", "\0")).replace("\0", "...")

    notation = f"{', '.join(map(spaced, operands))} -> {spaced(right)}"
    linear = tuple(frozenset({index}) for index in range(len(operands)))
    return notation_rule(notation, [t.shape for t in call.operands], [call.result.shape], linear=linear)


def trilinear_rule(call: Call) -> Rule:
    """``_trilinear``: three operands that lack some dims each, multiplied, and summed over some (``nn.Bilinear``)."""
    ndim = call.operands[0].ndim + len(call["expand1"])
    sizes: dict[str, Size] = {}
    sides = []
    for number, operand in enumerate(call.operands, 1):
        own = [dim for dim in range(ndim) if dim not in call[f"expand{number}"]]
        sizes.update({f"d{dim}": size for dim, size in zip(own, operand.shape, strict=True) if size != 1})
        sides.append(own)
    for dim in range(ndim):
        sizes.setdefault(f"d{dim}", 1)

    def terms(own: Sequence[int], shape: Sequence[Size]) -> Dims:
        whole = ((Term((f"d{dim}",)), size, sizes[f"d{dim}"]) for dim, size in zip(own, shape, strict=True))
        return tuple(Term() if size == 1 != wide else term for term, size, wide in whole)

    operands = tuple(terms(own, operand.shape) for own, operand in zip(sides, call.operands, strict=True))
    kept = [dim for dim in range(ndim) if dim not in call["sumdim"]]
    reduces = {f"d{dim}": "sum" for dim in call["sumdim"]}
    linear = tuple(frozenset({index}) for index in range(3))
    return Rule(operands, (terms(kept, call.result.shape),), sizes, reduces=reduces, linear=linear)


RULES: dict[str, Entry] = {
    "aten::_trilinear": Entry(trilinear_rule),
    "aten::addbmm": einsum("m n, b m k, b k n -> m n", multilinear=True, added=(0,)),
    "aten::addmm": einsum("m n, m k, k n -> m n", multilinear=True, added=(0,)),
    "aten::addmv": einsum("m, m k, k -> m", multilinear=True, added=(0,)),
    "aten::addr": einsum("m n, m, n -> m n", multilinear=True, added=(0,)),
    "aten::baddbmm": einsum("b m n, b m k, b k n -> b m n", multilinear=True, added=(0,)),
    "aten::bilinear": einsum("... i!, ... j!, o i j, o -> ... o", multilinear=True, added=(3,)),
    "aten::bmm": einsum("b i k, b k j -> b i j", multilinear=True),
    "aten::dot": einsum("k, k -> ", multilinear=True),
    "aten::einsum": Entry(einsum_rule),
    "aten::linear": einsum("... i, o i, o -> ... o", multilinear=True, added=(2,)),
    "aten::matmul": Entry(matmul_rule),
    "aten::mm": einsum("m k, k n -> m n", multilinear=True),
    "aten::mv": einsum("m k, k -> m", multilinear=True),
    "aten::outer": einsum("m, n -> m n", multilinear=True),
    "aten::vdot": einsum("k, k -> ", linear=((1,),)),
}
