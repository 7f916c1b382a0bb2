"""Dims of symbolic size that are cut: the period of the cut, which is known, as a dim of its own.

A cut of size ``repeat · period · inner`` is a cut of known size of the middle one of three dims (…, repeat, period,
inner, …). Whatever slices, gathers or scatters pieces therefore takes them from `split_period`, and gives them to
`join_period`.
"""

import operator
from typing import Any

import sympy
import torch
from torch import fx

from shardwright.errors import ProgramError
from shardwright.layout.cut import Cut
from shardwright.partition.emit import Emitter, is_dense

aten = torch.ops.aten


def period_of(cut: Cut) -> Cut:
    """The cut of one period, whose size is known."""
    return Cut.of(cut.num_ranks, cut.runs)


def period_dim(dim: int, cut: Cut) -> int:
    """Which dim of an unfolded value is the period of what was ``dim``."""
    return dim if cut.repeat == 1 else dim + 1


def split_period(emit: Emitter, x: fx.Node, dim: int, cut: Cut, count: int) -> fx.Node:
    """(…, repeat·count·inner, …) → (…, repeat, count, inner, …), without ``repeat`` or ``inner`` where they are 1.

    ``count``: how much of a period ``x`` has, all of it or what a rank owns.
    """
    sizes = emit.sizes(x)
    repeat, inner = _around(emit, sizes[dim], cut, count)
    parts = [*([repeat] if cut.repeat != 1 else []), count, *([inner] if cut.inner != 1 else [])]
    return emit.call(aten.view.default, contiguous(emit, x), [*sizes[:dim], *parts, *sizes[dim + 1 :]])


def join_period(emit: Emitter, x: fx.Node, dim: int, cut: Cut) -> fx.Node:
    """The inverse of `split_period`: the dims that were ``dim``, as one."""
    sizes = emit.sizes(x)
    last = period_dim(dim, cut) + (1 if cut.inner != 1 else 0)
    merged = sizes[dim]
    for size in sizes[dim + 1 : last + 1]:
        merged = times(emit, merged, size)
    return emit.call(aten.view.default, contiguous(emit, x), [*sizes[:dim], merged, *sizes[last + 1 :]])


def _around(emit: Emitter, size: Any, cut: Cut, count: int) -> tuple[Any, Any]:
    """``repeat`` and ``inner`` of a cut as numbers or nodes, from ``size`` = repeat·count·inner where one follows."""
    if isinstance(cut.inner, int) and count:
        return over(emit, size, count * cut.inner), cut.inner
    if isinstance(cut.repeat, int) and count:
        return cut.repeat, over(emit, size, count * cut.repeat)
    return size_node(emit, cut.repeat), size_node(emit, cut.inner)


def over(emit: Emitter, size: Any, divisor: int) -> Any:
    """``size // divisor`` as a number, or a node where ``size`` is one."""
    if divisor == 1:
        return size
    return size // divisor if isinstance(size, int) else emit.call(operator.floordiv, size, divisor)


def times(emit: Emitter, size: Any, factor: Any) -> Any:
    """``size * factor`` as a number, or a node where one of them is."""
    if isinstance(size, int) and isinstance(factor, int):
        return size * factor
    for one, other in ((size, factor), (factor, size)):
        if isinstance(one, int) and one in (0, 1):
            return other if one else 0
    return emit.call(operator.mul, size, factor)


def size_node(emit: Emitter, size: Any) -> Any:
    """A size as a number, or as a node made of the sizes of the program's inputs.

    Raises `ProgramError` where it hangs on the values of tensors.
    """
    expression = sympy.sympify(size)
    if expression.is_Integer:
        return int(expression)
    if expression.is_Mul:
        found: Any = 1
        for factor in expression.args:
            found = times(emit, found, size_node(emit, factor))
        return found
    known = _input_size(emit, expression)
    if known is None:
        raise ProgramError(
            f"a dim is cut whose size has the factor {expression}, which no input has\n"
            "  try: pin the module 'replicate' in the plan"
        )
    return known


def _input_size(emit: Emitter, wanted: sympy.Expr) -> fx.Node | None:
    """A node for ``wanted``, read off an input that has it, or a multiple of it, as a size."""
    for node in emit.graph.nodes:
        if node.op != "placeholder":
            continue
        val = node.meta.get("val")
        if isinstance(val, torch.SymInt) and val.node.expr == wanted:
            return node
        for dim, size in enumerate(val.shape if isinstance(val, torch.Tensor) else ()):
            ratio = sympy.sympify(size.node.expr if isinstance(size, torch.SymInt) else size) / wanted
            if ratio.is_Integer and ratio.is_positive:
                return over(emit, emit.call(aten.sym_size.int, node, dim), int(ratio))
    return None


def contiguous(emit: Emitter, x: fx.Node) -> fx.Node:
    """``x`` itself when it is contiguous, else a contiguous copy: the collectives read raw memory."""
    if is_dense(x):
        return x
    return emit.call(aten.clone.default, x, memory_format=torch.contiguous_format)
