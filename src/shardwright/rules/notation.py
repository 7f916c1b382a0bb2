"""The notation of rules: ``"... i, o i, o -> ... o"``, parsed once, applied to shapes.

Operands and results are separated by commas, ``->`` stands between them, and each dim is one of

- ``name``: a factor; ``name!``: a factor that may not be cut (marking it once is enough);
- ``(a b)``: one dim that enumerates a, then b; ``[a+b]``: one dim with the parts a and b laid end to end, cut together;
- ``1``: a dim of size 1; ``...``: any number of leading dims, aligned from the right and broadcast.

An operand that is absent (an optional bias) drops out with its pattern. A factor that no result carries is reduced, by
sum unless the rule says otherwise. A dim of size 1 where the factor is larger is a broadcast dim, and is not cut.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy

from shardwright.errors import RuleError
from shardwright.layout.sizes import Size, product, total
from shardwright.rules.rule import Dims, Term

_DIM = re.compile(r"\s*(\.\.\.|\(([^()\[\]]*)\)|\[([^()\[\]]*)\]|1(?![\w])|[A-Za-z_]\w*!?)")
_ELLIPSIS = Term(("...",))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed rule: the dims of operands and results, and the factors marked as uncuttable."""

    text: str
    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    fixed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Bound:
    """A pattern applied to shapes: dims with the ellipsis written out and broadcast dims emptied, factor sizes."""

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    sizes: Mapping[str, Size]
    fixed: frozenset[str]


def parse(text: str) -> Pattern:
    """Parse a rule; raises `RuleError` naming what is malformed.

    >>> parse("b (h d), h -> b h d").operands[0]
    (Term(factors=('b',), is_sum=False), Term(factors=('h', 'd'), is_sum=False))
    """
    if not isinstance(text, str):
        raise RuleError(f"a rule is a line of notation such as 'b i, o i -> b o', got {text!r}")
    return _parse(text)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Pattern:
    sides = text.split("->")
    if len(sides) != 2:
        raise RuleError(f"rule {text!r} needs exactly one '->' between operands and results")
    fixed: set[str] = set()
    # Nothing left of the arrow: no operands. Nothing right of it: one result without dims.
    left = sides[0].split(",") if sides[0].strip() else []
    operands = tuple(_parse_tensor(part, text, fixed) for part in left)
    results = tuple(_parse_tensor(part, text, fixed) for part in sides[1].split(","))
    if sum(dims.count(_ELLIPSIS) > 1 for dims in operands + results):
        raise RuleError(f"rule {text!r} has '...' twice in one tensor")
    return Pattern(text, operands, results, frozenset(fixed))


def bind_shapes(
    pattern: Pattern,
    operands: Sequence[Sequence[Size] | None],
    results: Sequence[Sequence[Size]],
    loose: Collection[int] = (),
) -> Bound:
    """Apply a pattern to shapes; None stands for an absent operand. Raises `RuleError` when they do not fit.

    ``loose``: operands that broadcast, so that leading dims of their pattern may be missing (a bias).
    """
    if len(operands) > len(pattern.operands) or len(results) != len(pattern.results):
        raise RuleError(
            f"rule {pattern.text!r} describes {len(pattern.operands)} operands and {len(pattern.results)} results, "
            f"but the call has {len(operands)} and {len(results)}"
        )
    pairs = [
        (dims[max(len(dims) - len(shape), 0) :] if index in loose else dims, shape)
        for index, (dims, shape) in enumerate(zip(pattern.operands, operands, strict=False))
        if shape is not None
    ]
    count = len(pairs)
    pairs += list(zip(pattern.results, results, strict=True))
    width = max((len(shape) - len(dims) + 1 for dims, shape in pairs if _ELLIPSIS in dims), default=0)
    expanded = [(_expand(dims, shape, width, pattern.text), tuple(shape)) for dims, shape in pairs]
    sizes = _solve_sizes(expanded, pattern.text)
    tensors = tuple(
        tuple(Term() if size == 1 and _larger(term, sizes) else term for term, size in zip(dims, shape, strict=True))
        for dims, shape in expanded
    )
    return Bound(tensors[:count], tensors[count:], sizes, pattern.fixed)


def _parse_tensor(part: str, text: str, fixed: set[str]) -> Dims:
    dims, position, part = [], 0, part.rstrip()
    while position < len(part):
        match = _DIM.match(part, position)
        if not match:
            raise RuleError(f"rule {text!r}: cannot read {part[position:].strip()!r}")
        token, grouped, summed = match.group(1), match.group(2), match.group(3)
        position = match.end()
        if token == "...":
            dims.append(_ELLIPSIS)
            continue
        names = grouped.split() if grouped is not None else summed.split("+") if summed is not None else [token]
        names = [name.strip() for name in names if name.strip() not in ("", "1")]
        fixed.update(name[:-1] for name in names if name.endswith("!"))
        dims.append(Term(tuple(name.rstrip("!") for name in names), summed is not None))
    return tuple(dims)


def _expand(dims: Dims, shape: Sequence[Size], width: int, text: str) -> Dims:
    if _ELLIPSIS not in dims:
        if len(dims) != len(shape):
            raise RuleError(f"rule {text!r}: {' '.join(map(str, dims))!r} does not describe a shape {tuple(shape)}")
        return dims
    at = dims.index(_ELLIPSIS)
    own = len(shape) - len(dims) + 1
    if own < 0:
        raise RuleError(f"rule {text!r}: {' '.join(map(str, dims))!r} needs more dims than shape {tuple(shape)} has")
    return (*dims[:at], *(Term((f"_{width - own + i}",)) for i in range(own)), *dims[at + 1 :])


def _larger(term: Term, sizes: Mapping[str, Size]) -> bool:
    return any(sizes[name] != 1 for name in term.factors)


def _solve_sizes(expanded: Sequence[tuple[Dims, tuple[Size, ...]]], text: str) -> dict[str, Size]:
    pairs = [(term, size) for dims, shape in expanded for term, size in zip(dims, shape, strict=True)]
    names = dict.fromkeys(name for term, _ in pairs for name in term.factors)
    sizes: dict[str, Size] = {}
    for term, size in pairs:
        if len(term.factors) == 1 and (term.factors[0] not in sizes or sizes[term.factors[0]] == 1):
            sizes[term.factors[0]] = size
    progress = True
    while progress:
        progress = False
        for term, size in pairs:
            unknown = [name for name in term.factors if name not in sizes]
            if len(unknown) == 1:
                rest = [sizes[name] for name in term.factors if name in sizes]
                sizes[unknown[0]] = _minus(size, rest) if term.is_sum else _over(size, product(rest), text)
                progress = True
    missing = [name for name in names if name not in sizes]
    if missing:
        raise RuleError(f"rule {text!r}: the sizes of {missing} do not follow from the shapes")
    for term, size in pairs:
        whole = total(sizes[n] for n in term.factors) if term.is_sum else product(sizes[n] for n in term.factors)
        if isinstance(whole, int) and isinstance(size, int) and size not in (whole, 1):
            raise RuleError(f"rule {text!r}: dim {term} should have size {whole}, but has {size}")
    return {name: sizes[name] for name in names}


def _minus(size: Size, parts: Sequence[Size]) -> Size:
    return size - total(parts)


def _over(size: Size, rest: Size, text: str) -> Size:
    if isinstance(size, int) and isinstance(rest, int):
        if rest == 0 or size % rest:
            raise RuleError(f"rule {text!r}: a dim of size {size} is not a multiple of {rest}")
        return size // rest
    return sympy.simplify(size / rest)
