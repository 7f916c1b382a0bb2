"""Gradients of what is read by its place: diagonals, windows, chosen rows, sampled images, bags; and of distances."""

from shardwright.layout.sizes import Size
from shardwright.rules.local import run_dense
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.operators.indexing import untold_dims
from shardwright.rules.registry import Entry, einsum, notation_rule
from shardwright.rules.rule import Call, Rule, Term

_FIRST = (frozenset({0}),)


def diagonal_backward_rule(call: Call) -> Rule:
    """``diagonal_backward``: a diagonal between two dims, which are whole, and zeros beside it."""
    dims, sizes = named_dims(call.result.shape)
    along = {int(call[name]) % len(dims) for name in ("dim1", "dim2")}
    sizes["diagonal"] = call.operands[0].shape[-1]
    kept = tuple(term for dim, term in enumerate(dims) if dim not in along)
    fixed = frozenset({"diagonal", *(f"d{dim}" for dim in along)})
    return Rule((((*kept, Term(("diagonal",)))),), (dims,), sizes, fixed, linear=_FIRST, size_arg="input_sizes")


def unfold_backward_rule(call: Call) -> Rule:
    """``unfold_backward``: windows along a dim, which is whole, are added up where they overlap."""
    dims, sizes = named_dims(call.result.shape)
    dim = dim_of(call, max(len(dims), 1))
    sizes.update(windows=call.operands[0].shape[dim] if dims else 1, place=call.operands[0].shape[-1])
    windows = (*put(dims, dim, Term(("windows",))), Term(("place",))) if dims else (Term(("place",)),)
    fixed = frozenset({"windows", "place", f"d{dim}"})
    return Rule((windows,), (dims,), sizes, fixed, linear=_FIRST, size_arg="input_sizes")


def masked_scatter_backward_rule(call: Call) -> Rule:
    """``masked_scatter_backward``: the rows that were written, in order; what a mask does not tell apart is cut."""
    whole, mask = call.operands
    rows = untold_dims(whole, mask, call.result)
    dims, sizes = named_dims(whole.shape)
    chosen, own = named_dims(mask.shape, "m")
    taken, places = named_dims(call.result.shape, "x")
    passing = dims[len(dims) - rows :]
    told = tuple(Term() if size == 1 else term for size, term in zip(mask.shape, chosen, strict=True))
    sizes.update({**own, **places})
    fixed = frozenset(sizes) - {term.factors[0] for term in passing}
    result = (*taken[: len(taken) - rows], *passing)
    return Rule((dims, told), (result,), sizes, fixed, linear=_FIRST, size_arg="sizes")


def grid_backward_rule(call: Call) -> Rule:
    """``grid_sampler_2d_backward``: the image's gradient adds up over sampled places, that of places over channels."""
    space = call.operands[1].ndim - 2
    sizes: dict[str, Size] = dict(zip("nc", call.operands[1].shape, strict=False))
    image, places = ([f"{prefix}{d}" for d in range(space)] for prefix in "st")
    sizes.update(zip(image, call.operands[1].shape[2:], strict=True))
    sizes.update(zip(places, call.operands[0].shape[2:], strict=True))
    sizes["x"] = call.operands[2].shape[-1]
    n, c, x = (Term((name,)) for name in "ncx")
    source, sampled = (n, c, *(Term((s,)) for s in image)), (n, c, *(Term((s,)) for s in places))
    grid = (n, *sampled[2:], x)
    results = tuple(None if r is None else dims for dims, r in zip((source, grid), call.results, strict=True))
    reduces = dict.fromkeys(("c", *places), "sum")
    fixed = frozenset({"x", *image})
    return Rule((sampled, source, grid), results, sizes, fixed, reduces=reduces, linear=_FIRST, localize=run_dense)


def distance_backward_rule(call: Call) -> Rule | None:
    """``_cdist_backward``: the gradient of each row adds up over all it was compared with, feature by feature."""
    if len({tensor.shape[:-2] for tensor in call.operands}) > 1:
        return None
    batch = " ".join(f"b{i}" for i in range(call.operands[0].ndim - 2))
    text = f"{batch} p r, {batch} p m, {batch} r m, {batch} p r -> {batch} p m"
    shapes = [tensor.shape for tensor in call.operands]
    return notation_rule(text, shapes, [call.result.shape], linear=_FIRST, localize=run_dense)


def bag_backward_rule(call: Call) -> Rule | None:
    """``_embedding_bag_backward`` and its dense form: features are cut; none for a gradient that holds rows alone."""
    if call.arguments.get("sparse"):
        return None
    feature = Term(("d",))
    operands = tuple(
        (*(Term(),) * (tensor.ndim - 1), feature) if tensor.ndim == 2 else (Term(),) * tensor.ndim
        for tensor in call.operands
    )
    sizes = {"d": call.result.shape[1]}
    return Rule(operands, ((Term(), feature),), sizes, linear=_FIRST, multiplies=(), localize=run_dense)


_GRID = Entry(grid_backward_rule)

RULES: dict[str, Entry] = {
    "aten::_cdist_backward": Entry(distance_backward_rule),
    "aten::_embedding_bag_backward": Entry(bag_backward_rule),
    "aten::_embedding_bag_dense_backward": Entry(bag_backward_rule),
    "aten::_embedding_bag_per_sample_weights_backward": einsum(
        "b! d, v! d, n!, o!, n! -> n!", linear=((0,), (1,)), localize=run_dense
    ),
    "aten::diagonal_backward": Entry(diagonal_backward_rule),
    "aten::grid_sampler_2d_backward": _GRID,
    "aten::grid_sampler_3d_backward": _GRID,
    "aten::masked_scatter_backward": Entry(masked_scatter_backward_rule),
    "aten::unfold_backward": Entry(unfold_backward_rule),
}
