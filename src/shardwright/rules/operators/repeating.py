"""Repeating elements: expand, repeat, repeat_interleave. The copies are factors of the result alone, and may be cut."""

from typing import Any

from shardwright.layout.sizes import Size
from shardwright.rules.local import local_size
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Local, Rule, Term

_FIRST = (frozenset({0}),)


def expand_rule(call: Call) -> Rule:
    """``expand``: a dim of size 1, or a new one, repeats; those factors are in the result alone.

    ``expand_as`` looks only at the other tensor's shape, in whatever layout it lies.
    """
    source, target = call.operands[0].shape, call.result.shape
    result, sizes = named_dims(target)
    offset = len(target) - len(source)
    own = tuple(Term() if size == 1 and target[dim] != 1 else result[dim] for dim, size in enumerate(source, offset))
    operands = (own, result)[: len(call.operands)]
    size_arg = "size" if "size" in call.arguments else None
    return Rule(operands, (result,), sizes, linear=_FIRST, moves=True, size_arg=size_arg)


def repeat_rule(call: Call) -> Rule:
    """``repeat`` and ``tile``: each dim is (times, own), and either may be cut."""
    source, target = call.operands[0].shape, call.result.shape
    counts = _counts(call, len(target))
    offset = len(target) - len(source)
    dims, sizes = named_dims([source[dim - offset] if dim >= offset else 1 for dim in range(len(target))])
    sizes.update((f"r{dim}", count) for dim, count in enumerate(counts))
    result = tuple(Term((f"r{dim}", f"d{dim}")) for dim in range(len(target)))
    return Rule((dims[offset:],), (result,), sizes, linear=_FIRST, moves=True, localize=local_repeat)


def _counts(call: Call, ndim: int) -> list[Size]:
    """How often each result dim repeats; ``tile`` may name fewer dims than the tensor has."""
    counts = list(call.arguments[_count_name(call)])
    return [1] * (ndim - len(counts)) + counts


def _count_name(call: Call) -> str:
    return "repeats" if "repeats" in call.arguments else "dims"


def local_repeat(local: Local) -> Any:
    """This rank's number of copies, where they are cut; its piece repeats like the whole."""
    name = _count_name(local.call)
    given = list(local.arguments[name])
    counts = [1] * (local.call.result.ndim - len(given)) + given
    for dim, count in enumerate(counts):
        cut = local.strategy.factor_cut(f"r{dim}")
        counts[dim] = count if cut is None else local_size(local, count, cut)
    return local.run_call(**{name: counts})


def repeat_interleave_rule(call: Call) -> Rule:
    """``repeat_interleave`` by a number: each index becomes (own, times); without a dim the tensor is flat."""
    dims, sizes = named_dims(call.operands[0].shape)
    sizes["r"] = call["repeats"]
    if call["dim"] is None:
        result = (Term((*sizes,)),)
    else:
        dim = dim_of(call, len(dims))
        result = put(dims, dim, Term((f"d{dim}", "r"))) if dims else (Term(("r",)),)
    return Rule((dims,), (result,), sizes, linear=_FIRST, moves=True, localize=local_repeat_interleave)


def local_repeat_interleave(local: Local) -> Any:
    """This rank's number of copies, without the optional output size, which is global."""
    cut = local.strategy.factor_cut("r")
    repeats = local.arguments["repeats"]
    return local.run_call(repeats=repeats if cut is None else local_size(local, repeats, cut), output_size=None)


def repeat_each_rule(call: Call) -> Rule:
    """``repeat_interleave`` by a tensor of counts: the dim may not be cut, the others pass."""
    dims, sizes = named_dims(call.operands[0].shape)
    counts, count_sizes = named_dims(call.operands[1].shape, "c")
    sizes.update(count_sizes)
    fixed = {*count_sizes}
    if call["dim"] is None:
        fixed.update(sizes)
        result: tuple[Term, ...] = (Term(("n",)),)
    else:
        dim = dim_of(call, len(dims))
        fixed.add(f"d{dim}")
        result = put(dims, dim, Term(("n",)))
    sizes["n"] = call.result.shape[0 if call["dim"] is None else dim_of(call, len(dims))]
    return Rule((dims, counts), (result,), sizes, frozenset({*fixed, "n"}), linear=_FIRST)


_EXPAND, _REPEAT = Entry(expand_rule), Entry(repeat_rule)

RULES: dict[str, Entry] = {
    "aten::expand": _EXPAND,
    "aten::expand_as": _EXPAND,
    "aten::expand_copy": _EXPAND,
    "aten::repeat": _REPEAT,
    "aten::repeat_interleave.self_Tensor": Entry(repeat_each_rule),
    "aten::repeat_interleave.self_int": Entry(repeat_interleave_rule),
    "aten::tile": _REPEAT,
}

UNSUPPORTED: dict[str, str] = {
    "aten::repeat_interleave.Tensor": "its result counts indices, whose number is not known before the program runs",
}
