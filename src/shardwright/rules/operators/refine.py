"""Reading the factors of a view off its two shapes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import sympy

from shardwright.layout.sizes import Size, product, same_size
from shardwright.rules.rule import Dims, Term


@dataclass(slots=True)
class _Piece:
    """A dim being factored: what is split off its front and its end, and the size of what lies between."""

    dim: int
    rest: Size
    front: list[str] = field(default_factory=list)
    end: list[str] = field(default_factory=list)


def refine(source: Sequence[Size], target: Sequence[Size]) -> tuple[Dims, Dims, dict[str, Size], set[str]]:
    """Factor two shapes of equally many elements: the terms of both, the factor sizes, the factors not shared.

    Walk both shapes from the front and split off what leads both. Where nothing does, go on to the next place where as
    many elements lie behind on both sides, and split off what ends both before it; what is left between is not shared.

    >>> source, target, _, fixed = refine((6, 4, 5), (4, 6, 5))
    >>> [str(term) for term in source], [str(term) for term in target], sorted(fixed)
    (['(f0 f2)', '(f3 f1)', 'f6'], ['(f0 f4)', '(f5 f1)', 'f6'], ['f2', 'f3', 'f4', 'f5'])
    """
    if any(isinstance(size, int) and size == 0 for size in source):
        return (Term(),) * len(source), (Term(),) * len(target), {}, set()
    sizes: dict[str, Size] = {}
    fixed: set[str] = set()
    left = [_Piece(dim, size) for dim, size in enumerate(source) if size != 1]
    right = [_Piece(dim, size) for dim, size in enumerate(target) if size != 1]
    i = j = 0
    while i < len(left) and j < len(right):
        common = _common(left[i].rest, right[j].rest)
        if common != 1:
            name = _name(sizes, common)
            for piece in (left[i], right[j]):
                piece.front.append(name)
                piece.rest = _divide(piece.rest, common)
            i, j = i + (left[i].rest == 1), j + (right[j].rest == 1)
            continue
        m, n = _meeting(left[i:], right[j:])
        _share_ends(left[i : i + m], right[j : j + n], sizes)
        _fix(left[i : i + m] + right[j : j + n], sizes, fixed)
        i, j = i + m, j + n
    _fix(left[i:] + right[j:], sizes, fixed)
    return _terms(left, len(source)), _terms(right, len(target)), sizes, fixed


def _name(sizes: dict[str, Size], size: Size) -> str:
    name = f"f{len(sizes)}"
    sizes[name] = size
    return name


def _meeting(left: Sequence[_Piece], right: Sequence[_Piece]) -> tuple[int, int]:
    """How many pieces of each side make the fewest that hold equally many elements; all when none are known to."""
    for m in range(1, len(left) + 1):
        for n in range(1, len(right) + 1):
            if same_size(product(p.rest for p in left[:m]), product(p.rest for p in right[:n])):
                return m, n
    return len(left), len(right)


def _share_ends(left: Sequence[_Piece], right: Sequence[_Piece], sizes: dict[str, Size]) -> None:
    """Split off what ends both sides, as long as something does."""
    i, j = len(left) - 1, len(right) - 1
    while i >= 0 and j >= 0 and (common := _common(left[i].rest, right[j].rest)) != 1:
        name = _name(sizes, common)
        for piece in (left[i], right[j]):
            piece.end.insert(0, name)
            piece.rest = _divide(piece.rest, common)
        i, j = i - (left[i].rest == 1), j - (right[j].rest == 1)


def _fix(pieces: Sequence[_Piece], sizes: dict[str, Size], fixed: set[str]) -> None:
    """What is left of these dims is a factor of its own, which may not be cut."""
    for piece in pieces:
        if piece.rest != 1:
            name = _name(sizes, piece.rest)
            piece.front.append(name)
            fixed.add(name)


def _terms(pieces: Sequence[_Piece], ndim: int) -> Dims:
    names: list[tuple[str, ...]] = [()] * ndim
    for piece in pieces:
        names[piece.dim] = (*piece.front, *piece.end)
    return tuple(Term(factors) for factors in names)


def _common(a: Size, b: Size) -> Size:
    """The largest factor that may lead both sizes: one divides the other, or their greatest common divisor."""
    if isinstance(a, int) and isinstance(b, int):
        return math.gcd(a, b)
    if same_size(a, b):
        return a
    shared = sympy.gcd(sympy.sympify(a), sympy.sympify(b))
    return int(shared) if isinstance(shared, sympy.Integer) else shared


def _divide(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    quotient = sympy.simplify(sympy.sympify(a) / b)
    return int(quotient) if isinstance(quotient, sympy.Integer) else quotient
