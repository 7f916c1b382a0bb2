"""Putting tensors together: cat and its kin lay a dim end to end, stack makes a new one, meshgrid spans a grid."""

from collections.abc import Sequence

from shardwright.layout.sizes import Size
from shardwright.rules.notation import bind_shapes, parse
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.registry import Entry, rule_of
from shardwright.rules.rule import Call, Dims, Rule, TensorMeta, Term


def cat_rule(call: Call) -> Rule:
    """``cat``: the result's dim is the operands' dims laid end to end, cut together; the others are shared."""
    return joined(call, dim_of(call, call.result.ndim))


def joined(call: Call, dim: int) -> Rule:
    """The operands laid end to end along a dim of the result."""
    dims, sizes = named_dims(call.result.shape)
    del sizes[f"d{dim}"]
    operands: list[Dims] = []
    parts: list[str] = []
    for index, tensor in enumerate(call.operands):
        if _is_legacy_empty(tensor, call.result):
            operands.append((Term(),))
            continue
        parts.append(f"p{index}")
        sizes[parts[-1]] = tensor.shape[dim]
        operands.append(put(dims, dim, Term((parts[-1],))))
    is_sum = len(parts) != 1  # one tensor alone, as packing with einops joins it, passes as it is, whatever its size
    return Rule(
        tuple(operands),
        (put(dims, dim, Term(tuple(parts), is_sum)),),
        sizes,
        joint=(tuple(parts),) if is_sum else (),
        linear=(frozenset(range(len(operands))),),
        moves=True,
    )


def _is_legacy_empty(tensor: TensorMeta, result: TensorMeta) -> bool:
    """An empty tensor of one dim, with which old programs begin a list, and which ``cat`` ignores."""
    return tensor.shape == (0,) and result.ndim > 1


def stack_rule(call: Call) -> Rule:
    """``stack``: a new dim, which may not be cut; the others are shared by all operands."""
    return stacked(call, dim_of(call, call.result.ndim))


def stacked(call: Call, dim: int, *, ones: Sequence[int] = ()) -> Rule:
    """The operands side by side along a new dim of the result; ``ones``: further new dims, of size 1."""
    dims, sizes = named_dims(call.result.shape)
    own = tuple(term for i, term in enumerate(dims) if i != dim and i not in ones)
    operands = (own,) * len(call.operands)
    together = frozenset(range(len(call.operands)))
    return Rule(operands, (dims,), sizes, frozenset({f"d{dim}"}), linear=(together,), moves=True)


def hstack_rule(call: Call) -> Rule | None:
    """``hstack``: along the second dim, or the only one."""
    if any(tensor.ndim == 0 for tensor in call.operands):
        return None
    return joined(call, 0 if call.result.ndim == 1 else 1)


def vstack_rule(call: Call) -> Rule | None:
    """``vstack``: rows under each other, one-dim tensors being rows."""
    if all(tensor.ndim == 1 for tensor in call.operands):
        return stacked(call, 0)
    return joined(call, 0) if all(tensor.ndim == call.result.ndim for tensor in call.operands) else None


def dstack_rule(call: Call) -> Rule | None:
    """``dstack``: along the third dim, tensors without one getting it."""
    if all(tensor.ndim == 1 for tensor in call.operands):
        return stacked(call, 2, ones=(0,))
    if all(tensor.ndim == 2 for tensor in call.operands):
        return stacked(call, 2)
    return joined(call, 2) if all(tensor.ndim == call.result.ndim for tensor in call.operands) else None


def column_stack_rule(call: Call) -> Rule | None:
    """``column_stack``: one-dim tensors are columns."""
    if all(tensor.ndim == 1 for tensor in call.operands):
        return stacked(call, 1)
    return joined(call, 1) if all(tensor.ndim == call.result.ndim for tensor in call.operands) else None


def meshgrid_rule(call: Call) -> Rule:
    """``meshgrid``: each operand's only dim is a dim of every result."""
    shapes = [tensor.shape for tensor in call.operands]
    sizes: dict[str, Size] = {f"d{i}": shape[0] if shape else 1 for i, shape in enumerate(shapes)}
    dims = tuple(Term((name,)) for name in sizes)
    grid = (dims[1], dims[0], *dims[2:]) if call.arguments.get("indexing") == "xy" and len(dims) > 1 else dims
    operands = tuple((dims[i],) if shape else () for i, shape in enumerate(shapes))
    together = (frozenset(range(len(shapes))),)
    return Rule(operands, (grid,) * len(call.results), sizes, linear=together, moves=True)


def broadcast_rule(call: Call) -> Rule:
    """``broadcast_tensors``: every operand grows to the shape of all."""
    text = ", ".join(["..."] * len(call.operands)) + " -> " + ", ".join(["..."] * len(call.results))
    bound = bind_shapes(parse(text), [t.shape for t in call.operands], [r.shape for r in call.results if r is not None])
    return rule_of(bound, linear=(frozenset(range(len(call.operands))),), moves=True)


_CAT = Entry(cat_rule)

RULES: dict[str, Entry] = {
    "aten::broadcast_tensors": Entry(broadcast_rule),
    "aten::cat": _CAT,
    "aten::column_stack": Entry(column_stack_rule),
    "aten::dstack": Entry(dstack_rule),
    "aten::hstack": Entry(hstack_rule),
    "aten::meshgrid": Entry(meshgrid_rule),
    "aten::stack": Entry(stack_rule),
    "aten::vstack": Entry(vstack_rule),
}

UNSUPPORTED: dict[str, str] = {
    "aten::block_diag": "a cut of its rows or columns leaves every rank parts of other shapes",
    "aten::cartesian_prod": "each result column repeats an operand in its own rhythm",
    "aten::combinations": "each result row mixes indices of the only dim",
}
