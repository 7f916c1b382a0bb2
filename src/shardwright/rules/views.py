"""Views: the same elements under another shape. Factors are read off the two shapes."""

import math
from collections.abc import Sequence
from typing import Any

import sympy
import torch

from shardwright.layout import Shard, Size, cut_of, same_size
from shardwright.rules.localize import local_size, local_sizes
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten


def view_rule(call: Call) -> Rule:
    """``view``, ``reshape``, ``flatten`` …: the common refinement of the two shapes.

    ``(2, 6, 64) -> (2, 384)`` gives ``b h d -> b (h d)``. Where sizes share no refinement the rest may not be cut.
    """
    source, target, sizes, fixed = refine(call.operands[0].shape, call.result.shape)
    operands: tuple[Dims, ...] = (source,)
    if len(call.operands) > 1:
        # view_as and its like look only at the other tensor's shape, which must be cut as the result is.
        operands = (source, target)
    linear = (frozenset({0}),) if len(call.operands) == 1 else ()
    return Rule(
        operands, (target,), sizes, frozenset(fixed), linear=linear, moves=len(operands) == 1, localize=local_view
    )


def local_view(local: Local) -> Any:
    """The view with its local shape spelled out; made dense first where local strides do not allow it."""
    name = next((n for n in ("size", "shape", "sizes") if n in local.arguments), None)
    source = local.arguments[next(iter(local.arguments))]
    if name is None or name == "sizes" or "stride" in local.arguments:
        return local.run(aten.reshape.default, source, _result_sizes(local, source))
    sizes = local_sizes(local, list(local.arguments[name]), local.strategy.results[0])
    try:
        return local.run_call(**{name: sizes})
    except RuntimeError:
        dense = local.run(aten.clone.default, source, memory_format=torch.contiguous_format)
        return local.run(local.call.op, dense, sizes)


def _result_sizes(local: Local, source: Any) -> list[Any]:
    """The local result shape of a view that does not spell it: numbers, and one -1 for a symbolic dim."""
    layout = local.strategy.results[0]
    sizes: list[Any] = []
    for dim, size in enumerate(local.call.result.shape):
        is_cut = isinstance(layout, Shard) and layout.dim == dim
        sizes.append(cut_of(layout).local_size(local.rank) if is_cut else size)  # type: ignore[arg-type]
    unknown = [dim for dim, size in enumerate(sizes) if not isinstance(size, int)]
    for dim in unknown:
        sizes[dim] = _size_node(local, source, dim) if len(unknown) > 1 else -1
    return sizes


def _size_node(local: Local, source: Any, dim: int) -> Any:
    """A symbolic result size that is also a size of the source."""
    size = local.call.result.shape[dim]
    for position, known in enumerate(local.call.operands[0].shape):
        if not isinstance(known, int) and same_size(known, size):
            return local.run(aten.sym_size.int, source, position)
    raise RuntimeError(f"the size {size} of a flattened dim cannot be spelled from the operand's sizes")


def refine(source: Sequence[Size], target: Sequence[Size]) -> tuple[Dims, Dims, dict[str, Size], set[str]]:
    """Factor two shapes of equally many elements: the terms of both, the factor sizes, the factors not shared."""
    if any(isinstance(size, int) and size == 0 for size in source):
        return (Term(),) * len(source), (Term(),) * len(target), {}, set()
    sides: tuple[list[list[str]], list[list[str]]] = ([[] for _ in source], [[] for _ in target])
    left: list[list[Any]] = [[dim, size] for dim, size in enumerate(source) if size != 1]
    right: list[list[Any]] = [[dim, size] for dim, size in enumerate(target) if size != 1]
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
    shared = sympy.gcd(sympy.sympify(a), sympy.sympify(b))
    return int(shared) if isinstance(shared, sympy.Integer) else shared


def _divide(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    quotient = sympy.simplify(sympy.sympify(a) / b)
    return int(quotient) if isinstance(quotient, sympy.Integer) else quotient


def permute_rule(call: Call) -> Rule:
    """``permute``, ``transpose``, ``movedim`` …: the same dims in another order, found by asking the operator."""
    shape = call.operands[0].shape
    with torch.no_grad():
        probe = torch.empty(tuple(range(2, 2 + len(shape))), device="meta")
        arguments = {**call.arguments, next(iter(call.arguments)): probe}
        order = [size - 2 for size in call.op(**_named(call, arguments)).shape]
    names = [f"d{dim}" for dim in range(len(shape))]
    source = tuple(Term((name,)) for name in names)
    sizes = {f"d{dim}": size for dim, size in enumerate(shape)}
    return Rule((source,), (tuple(source[dim] for dim in order),), sizes, linear=(frozenset({0}),), moves=True)


def _named(call: Call, arguments: dict[str, Any]) -> dict[str, Any]:
    return {argument.name: arguments[argument.name] for argument in call.op._schema.arguments}


def squeeze_rule(call: Call) -> Rule:
    """``squeeze`` and ``unsqueeze``: dims of size 1 come and go."""
    source, target, sizes, fixed = refine(call.operands[0].shape, call.result.shape)
    spelled = local_squeeze if "unsqueeze" not in call.op._schema.name else None
    return Rule((source,), (target,), sizes, frozenset(fixed), linear=(frozenset({0}),), moves=True, localize=spelled)


def local_squeeze(local: Local) -> Any:
    """Only the dims of global size 1: a local size may be 1 by chance."""
    shape = local.call.operands[0].shape
    named = local.call.arguments.get("dim", range(len(shape)))
    named = {int(dim) % max(len(shape), 1) for dim in ([named] if isinstance(named, int) else named)}
    ones = [dim for dim, size in enumerate(shape) if size == 1 and dim in named]
    return local.run(aten.squeeze.dims, local.arguments["self"], ones)


def expand_rule(call: Call) -> Rule:
    """``expand``: a dim of size 1, or a new one, repeats; those factors are in the result alone."""
    source, target = call.operands[0].shape, call.result.shape
    offset = len(target) - len(source)
    names = [f"d{dim}" for dim in range(len(target))]
    sizes = dict(zip(names, target, strict=True))
    result = tuple(Term((name,)) for name in names)
    own = tuple(
        Term() if size == 1 and target[dim + offset] != 1 else result[dim + offset] for dim, size in enumerate(source)
    )
    size_arg = next((n for n in ("size", "shape") if n in call.arguments), None)
    if size_arg is None:
        return Rule((own, result), (result,), sizes)
    return Rule((own,), (result,), sizes, linear=(frozenset({0}),), moves=True, size_arg=size_arg)


def repeat_rule(call: Call) -> Rule:
    """``repeat`` and ``tile``: each dim is (times, own); cutting the own factor leaves the counts as they are."""
    source, target = call.operands[0].shape, call.result.shape
    offset = len(target) - len(source)
    sizes: dict[str, Size] = {}
    result, fixed = [], set()
    for dim, size in enumerate(target):
        own = source[dim - offset] if dim >= offset else 1
        sizes[f"d{dim}"], sizes[f"r{dim}"] = own, _divide(size, own)
        fixed.add(f"r{dim}")
        result.append(Term((f"r{dim}", f"d{dim}")))
    operand = tuple(Term((f"d{dim + offset}",)) for dim in range(len(source)))
    return Rule((operand,), (tuple(result),), sizes, frozenset(fixed), linear=(frozenset({0}),), moves=True)


def repeat_interleave_rule(call: Call) -> Rule | None:
    """``repeat_interleave`` by a number along a dim: (own, times)."""
    dim, repeats = call["dim"], call["repeats"]
    if dim is None or not isinstance(repeats, int):
        return None
    shape = call.operands[0].shape
    dim %= len(shape)
    sizes: dict[str, Size] = {**{f"d{i}": size for i, size in enumerate(shape)}, "r": repeats}
    source = tuple(Term((f"d{i}",)) for i in range(len(shape)))
    target = tuple(Term((f"d{i}", "r")) if i == dim else Term((f"d{i}",)) for i in range(len(shape)))
    return Rule(
        (source,), (target,), sizes, frozenset({"r"}), linear=(frozenset({0}),), moves=True, localize=_without_size
    )


def _without_size(local: Local) -> Any:
    """The call without its optional output size, which is global."""
    changed = {"output_size": None} if "output_size" in local.arguments else {}
    return local.run_call(**changed)


def unflatten_rule(call: Call) -> Rule:
    """``unflatten``: a view that spells only the new dims."""
    rule = view_rule(call)
    return Rule(
        rule.operands, rule.results, rule.sizes, rule.fixed, linear=rule.linear, moves=True, localize=local_unflatten
    )


def local_unflatten(local: Local) -> Any:
    """The new dims with the cut one made local."""
    layout, dim = local.strategy.results[0], local.arguments["dim"] % len(local.call.operands[0].shape)
    sizes = list(local.arguments["sizes"])
    if isinstance(layout, Shard) and dim <= layout.dim < dim + len(sizes):
        entry = sizes[layout.dim - dim]
        size = local.call.result.shape[layout.dim] if isinstance(entry, int) and entry == -1 else entry
        sizes[layout.dim - dim] = local_size(local, size, cut_of(layout))
    return local.run(aten.unflatten.int, local.arguments["self"], dim, sizes)


_VIEW, _PERMUTE, _SQUEEZE, _EXPAND = Entry(view_rule), Entry(permute_rule), Entry(squeeze_rule), Entry(expand_rule)

RULES: dict[str, Entry] = {
    "aten::_reshape_alias": _VIEW,
    "aten::_reshape_copy": _VIEW,
    "aten::_unsafe_view": _VIEW,
    "aten::broadcast_to": _EXPAND,
    "aten::expand": _EXPAND,
    "aten::expand_as": _EXPAND,
    "aten::expand_copy": _EXPAND,
    "aten::flatten.using_ints": _VIEW,
    "aten::mT": _PERMUTE,
    "aten::movedim.int": _PERMUTE,
    "aten::movedim.intlist": _PERMUTE,
    "aten::numpy_T": _PERMUTE,
    "aten::permute": _PERMUTE,
    "aten::permute_copy": _PERMUTE,
    "aten::ravel": _VIEW,
    "aten::repeat": Entry(repeat_rule),
    "aten::repeat_interleave.self_int": Entry(repeat_interleave_rule),
    "aten::reshape": _VIEW,
    "aten::reshape_as": _VIEW,
    "aten::squeeze": _SQUEEZE,
    "aten::squeeze_copy": _SQUEEZE,
    "aten::swapaxes": _PERMUTE,
    "aten::swapdims": _PERMUTE,
    "aten::t": _PERMUTE,
    "aten::t_copy": _PERMUTE,
    "aten::tile": Entry(repeat_rule),
    "aten::transpose.int": _PERMUTE,
    "aten::transpose_copy.int": _PERMUTE,
    "aten::unflatten.int": Entry(unflatten_rule),
    "aten::unsqueeze": _SQUEEZE,
    "aten::unsqueeze_copy": _SQUEEZE,
    "aten::view": _VIEW,
    "aten::view.dtype": einsum("... n! -> ... n!", linear=()),
    "aten::view_as": _VIEW,
    "aten::view_as_complex": einsum("... two! -> ..."),
    "aten::view_as_real": einsum("... -> ... two!"),
    "aten::view_copy": _VIEW,
}
