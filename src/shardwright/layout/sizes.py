"""Sizes: Python ints or, where a size is not known before the program runs, sympy expressions."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy

if TYPE_CHECKING:
    Size: TypeAlias = Any  # sympy publishes no types for its arithmetic
else:
    Size: TypeAlias = int | sympy.Expr
"""A size: an int, or a sympy expression where it is not known before the program runs."""


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(sympy.simplify(a - b) == 0)


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def total(sizes: Iterable[Size]) -> Size:
    """The sum of sizes; 0 for none."""
    result: Size = 0
    for size in sizes:
        result = result + size
    return result


def is_integer(value: Size) -> bool:
    """Whether a size is known to be a whole number."""
    return isinstance(value, int) or bool(sympy.simplify(value).is_integer)


def as_size(value: Size) -> Size:
    """A size as an int where it is one."""
    return int(value) if isinstance(value, sympy.Integer) else value


def size_hint(size: Size, fake_mode: Any, *, unknown: int = 1024) -> int:
    """A number for a size: itself, or what it was when the program was exported; ``unknown`` for data-dependent."""
    if isinstance(size, int):
        return size
    env = getattr(fake_mode, "shape_env", None)
    # The newer name first: asking for the older one warns.
    name = "backed_var_to_val" if hasattr(env, "backed_var_to_val") else "var_to_val"
    values: Mapping[Any, Any] = getattr(env, name, None) or {}
    hinted = sympy.sympify(size).xreplace({s: values[s] for s in sympy.sympify(size).free_symbols if s in values})
    hinted = hinted.xreplace(dict.fromkeys(hinted.free_symbols, sympy.Integer(unknown)))
    return int(hinted)
