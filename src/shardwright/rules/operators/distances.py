"""Distances and similarities along a dim, which is whole; and membership, which compares with every element."""

from shardwright.layout.sizes import Size
from shardwright.rules.notation import bind_shapes, parse
from shardwright.rules.operators.dims import dim_of, named_dims
from shardwright.rules.registry import Entry, einsum, notation_rule, rule_of
from shardwright.rules.rule import Call, Rule, TensorMeta


def similarity_rule(call: Call) -> Rule:
    """``cosine_similarity``: operands broadcast, one dim goes."""
    ndim = max(tensor.ndim for tensor in call.operands)
    dim = dim_of(call, ndim, default=1)
    return _along(call, ndim, dim, keeps=False)


def pairwise_rule(call: Call) -> Rule:
    """``pairwise_distance``: the last dim goes, or stays with size 1."""
    ndim = max(tensor.ndim for tensor in call.operands)
    return _along(call, ndim, ndim - 1, keeps=bool(call.arguments.get("keepdim", False)))


def _along(call: Call, ndim: int, dim: int, *, keeps: bool) -> Rule:
    names = [f"d{i}!" if i == dim else f"d{i}" for i in range(ndim)]
    sides = [" ".join(names[ndim - tensor.ndim :]) for tensor in call.operands]
    result = " ".join("1" if i == dim else name for i, name in enumerate(names) if keeps or i != dim)
    text = f"{', '.join(sides)} -> {result}"
    return rule_of(bind_shapes(parse(text), [t.shape for t in call.operands], [call.result.shape]))


def dist_rule(call: Call) -> Rule | None:
    """``dist``: a norm of the difference; sums of absolute values add up, and the largest is the largest."""
    if call.operands[0].shape != call.operands[1].shape:
        return None
    dims, sizes = named_dims(call.operands[0].shape)
    op = {1: "sum", float("inf"): "max", float("-inf"): "min"}.get(call["p"])
    reduces = dict.fromkeys(sizes, op) if op else {}
    return Rule((dims, dims), ((),), sizes, frozenset() if op else frozenset(sizes), reduces=reduces)


def membership_rule(call: Call) -> Rule | None:
    """``isin``: every element against all test elements; found among some of them is found."""
    if len(call.operands) < 2:
        return None
    dims, sizes = named_dims(call.operands[0].shape)
    tests, own = named_dims(call.operands[1].shape, "t")
    fixed = frozenset(own) if call["invert"] else frozenset()
    return Rule((dims, tests), (dims,), {**sizes, **own}, fixed, reduces={} if fixed else dict.fromkeys(own, "sum"))


def search_rule(call: Call) -> Rule:
    """``searchsorted``: values in one sorted row, or each row's values in a row of its own.

    How many lie before a value adds up over any parts of a sorted row; not where a sorter says where its elements are.
    """
    row, *rest = call.operands
    values = isinstance(call["self"], TensorMeta)
    n = "n!" if len(rest) > values else "n"
    if row.ndim != 1:
        sides = [f"... {n}", "... m", f"... {n}"][: len(call.operands)]
        return notation_rule(f"{', '.join(sides)} -> ... m", *_shapes(call), multiplies=())
    sides = [n, *(["..."] if values else []), *([n] if len(rest) > values else [])]
    return notation_rule(f"{', '.join(sides)} -> {'...' if values else ''}", *_shapes(call), multiplies=())


def _shapes(call: Call) -> tuple[list[tuple[Size, ...]], list[tuple[Size, ...]]]:
    return [t.shape for t in call.operands], [call.result.shape]


RULES: dict[str, Entry] = {
    "aten::bucketize.Tensor": einsum("..., n -> ...", multiplies=()),
    "aten::cosine_similarity": Entry(similarity_rule),
    "aten::dist": Entry(dist_rule),
    "aten::isin.Tensor_Tensor": Entry(membership_rule),
    "aten::pairwise_distance": Entry(pairwise_rule),
    "aten::searchsorted": Entry(search_rule),
}
