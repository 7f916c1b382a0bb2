"""Views: the same elements under another shape. Factors are read off the two shapes."""

import math

import sympy

from shardwright.layout import Size, same_size
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Dims, Rule, Term


def view_rule(call: Call) -> Rule:
    """``view``/``reshape``/``flatten`` …: the common refinement of the two shapes.

    ``(2, 6, 64) -> (2, 384)`` gives ``b h d -> b (h d)``. Where sizes share no refinement the rest may not be cut.
    """
    source, target, sizes, fixed = refine(call.operands[0].shape, call.result.shape)
    size_arg = next((name for name in ("size", "shape") if name in call.arguments), None)
    return Rule(
        (source,), (target,), sizes, frozenset(fixed), linear=(frozenset({0}),), moves=True, size_arg=size_arg
    )


def refine(source: tuple[Size, ...], target: tuple[Size, ...]) -> tuple[Dims, Dims, dict[str, Size], set[str]]:
    """Factor two shapes of equally many elements: the terms of both, the factor sizes, the factors not shared."""
    if any(size == 0 for size in source):
        return (Term(),) * len(source), (Term(),) * len(target), {}, set()
    sides = ([list[str]() for _ in source], [list[str]() for _ in target])
    left = [[dim, size] for dim, size in enumerate(source) if size != 1]
    right = [[dim, size] for dim, size in enumerate(target) if size != 1]
    sizes: dict[str, Size] = {}
    fixed: set[str] = set()
    i = j = 0
    while i < len(left) and j < len(right):
        common = _common(left[i][1], right[j][1])
        if common == 1:
            break
        name = f"f{len(sizes)}"
        sizes[name] = common
        sides[0][left[i][0]].append(name)
        sides[1][right[j][0]].append(name)
        left[i][1], right[j][1] = _divide(left[i][1], common), _divide(right[j][1], common)
        i, j = i + (left[i][1] == 1), j + (right[j][1] == 1)
    for side, rest in ((0, left[i:]), (1, right[j:])):
        for dim, size in rest:
            name = f"f{len(sizes)}"
            sizes[name] = size
            fixed.add(name)
            sides[side][dim].append(name)
    source_terms, target_terms = (tuple(Term(tuple(names)) for names in side) for side in sides)
    return source_terms, target_terms, sizes, fixed


def _common(a: Size, b: Size) -> Size:
    """The largest factor that may lead both sizes: one divides the other, or their greatest common divisor."""
    if isinstance(a, int) and isinstance(b, int):
        return math.gcd(a, b)
    if same_size(a, b):
        return a
    for small, large in ((a, b), (b, a)):
        quotient = sympy.simplify(sympy.sympify(large) / small)
        if quotient.is_integer:
            return small
    shared = sympy.gcd(sympy.sympify(a), sympy.sympify(b))
    return int(shared) if isinstance(shared, sympy.Integer) else shared


def _divide(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    quotient = sympy.simplify(sympy.sympify(a) / b)
    return int(quotient) if isinstance(quotient, sympy.Integer) else quotient


RULES: dict[str, Entry] = {
    "aten::_unsafe_view": Entry(view_rule),
    "aten::flatten": Entry(view_rule),
    "aten::reshape": Entry(view_rule),
    "aten::squeeze": Entry(view_rule),
    "aten::unflatten": Entry(view_rule),
    "aten::unsqueeze": Entry(view_rule),
    "aten::view": Entry(view_rule),
}
