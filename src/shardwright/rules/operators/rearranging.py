"""Moving elements within a tensor: flip, roll, triangles, diagonals, windows, shuffles, padding.

A dim whose elements change places may not be cut; all other dims pass.
"""

from typing import Any

import torch

from shardwright.layout.sizes import Size
from shardwright.rules.operators.dims import dim_of, dims_of, named_dims, put
from shardwright.rules.registry import Builder, Entry, einsum
from shardwright.rules.rule import Call, Local, Rule, Term

aten = torch.ops.aten

_FIRST = (frozenset({0}),)


def touched_rule(call: Call, touched: set[int], *, is_linear: bool = True, moves: bool = False) -> Rule:
    """Every dim passes but the ``touched`` ones, whose size may change."""
    source, target = call.operands[0].shape, call.result.shape
    sizes: dict[str, Size] = {}
    left, right = [], []
    for dim in range(len(target)):
        names = (f"own{dim}", f"new{dim}") if dim in touched else (f"d{dim}", f"d{dim}")
        sizes[names[0]], sizes[names[1]] = source[dim], target[dim]
        left.append(Term((names[0],)))
        right.append(Term((names[1],)))
    fixed = frozenset(name for name in sizes if not name.startswith("d"))
    return Rule((tuple(left),), (tuple(right),), sizes, fixed, linear=_FIRST if is_linear else (), moves=moves)


def pad_rule(call: Call) -> Rule:
    """``constant_pad_nd`` and ``pad``: padded dims may not be cut; linear unless the padding is another number."""
    ndim, pad = call.operands[0].ndim, call["pad"]
    touched = {ndim - 1 - i // 2 for i, amount in enumerate(pad) if not (isinstance(amount, int) and amount == 0)}
    is_constant = call.arguments.get("mode", "constant") == "constant"
    # What a constant pads is not a reduction of the ranks' values, unless it is the sum of zeros.
    return touched_rule(call, touched, is_linear=not is_constant or not call["value"], moves=not is_constant)


def edge_pad_rule(call: Call) -> Rule:
    """``reflection_pad1d`` … ``replication_pad3d``: the last dims may not be cut, batch and channels pass."""
    ndim = call.operands[0].ndim
    return touched_rule(call, {ndim - 1 - i for i in range(len(call["padding"]) // 2)}, moves=True)


def dims_rule(call: Call) -> Rule:
    """``flip`` and ``roll``: the dims they work along may not be cut."""
    ndim = call.operands[0].ndim
    touched = dims_of(call, ndim)
    if call.schema_name == "aten::flip" and not call["dims"]:
        touched = []
    return touched_rule(call, set(touched), moves=True)


def touches(*dims: int) -> Builder:
    """These dims, counted from the end where negative, may not be cut."""

    def build(call: Call) -> Rule:
        ndim = call.operands[0].ndim
        return touched_rule(call, {dim % max(ndim, 1) for dim in dims}, moves=True)

    return build


def triangle_rule(call: Call) -> Rule:
    """``tril`` and ``triu``: the last two dims may not be cut."""
    ndim = call.operands[0].ndim
    return touched_rule(call, {ndim - 1, ndim - 2})


def rot90_rule(call: Call) -> Rule:
    """``rot90``: a plane of two dims turns; the others pass."""
    ndim = call.operands[0].ndim
    return touched_rule(call, set(dims_of(call, ndim)), moves=True)


def diagonal_rule(call: Call) -> Rule:
    """``diagonal``: the two dims it reads may not be cut; the others keep their order, before the diagonal."""
    dims, sizes = named_dims(call.operands[0].shape)
    first, second = dim_of(call, len(dims), "dim1", 0), dim_of(call, len(dims), "dim2", 1)
    rest = tuple(term for dim, term in enumerate(dims) if dim not in (first, second))
    sizes["n"] = call.result.shape[-1]
    fixed = frozenset({f"d{first}", f"d{second}", "n"})
    return Rule((dims,), ((*rest, Term(("n",))),), sizes, fixed, linear=_FIRST, moves=True)


def diag_embed_rule(call: Call) -> Rule:
    """``diag_embed``: the last dim becomes the diagonal of a plane of zeros."""
    dims, sizes = named_dims(call.result.shape)
    plane = {dim_of(call, len(dims), "dim1", -2), dim_of(call, len(dims), "dim2", -1)}
    rest = tuple(term for dim, term in enumerate(dims) if dim not in plane)
    sizes["n"] = call.operands[0].shape[-1]
    fixed = frozenset({*(f"d{dim}" for dim in plane), "n"})
    return Rule(((*rest, Term(("n",))),), (dims,), sizes, fixed, linear=_FIRST)


def unfold_rule(call: Call) -> Rule:
    """``Tensor.unfold``: windows over one dim, which may be cut only where they lie side by side."""
    shape, width, step = call.operands[0].shape, call["size"], call["step"]
    dim = dim_of(call, len(shape), "dimension")
    dims, sizes = named_dims(shape)
    windows = call.result.shape[dim] if shape else 1
    sizes.update(windows=windows, width=width)
    result = (*put(dims, dim, Term(("windows",))), Term(("width",))) if shape else (Term(("width",)),)
    if shape and width == step and isinstance(windows, int) and windows * width == shape[dim]:
        del sizes[f"d{dim}"]
        source, fixed = put(dims, dim, Term(("windows", "width"))), frozenset({"width"})
    else:
        source, fixed = dims, frozenset({f"d{dim}", "windows", "width"} & sizes.keys())
    return Rule((source,), (result,), sizes, fixed, linear=_FIRST, moves=True)


def channel_shuffle_rule(call: Call) -> Rule:
    """``channel_shuffle``: (groups, channels) become (channels, groups), and local channels are shuffled alike."""
    dims, sizes = named_dims(call.operands[0].shape)
    groups = call["groups"]
    sizes.update(g=groups, c=sizes.pop("d1") // groups)
    source, target = put(dims, 1, Term(("g", "c"))), put(dims, 1, Term(("c", "g")))
    return Rule((source,), (target,), sizes, linear=_FIRST, moves=True, localize=local_channel_shuffle)


def local_channel_shuffle(local: Local) -> Any:
    """The shuffle of this rank's groups; of its channels, the groups are whole."""
    cut = local.strategy.factor_cut("g")
    return local.run_call() if cut is None else local.run_call(groups=cut.local_size(local.rank))


_DIAGONAL, _EDGE, _TRIANGLE, _UNFOLD = (
    Entry(diagonal_rule),
    Entry(edge_pad_rule),
    Entry(triangle_rule),
    Entry(unfold_rule),
)

RULES: dict[str, Entry] = {
    "aten::channel_shuffle": Entry(channel_shuffle_rule),
    "aten::constant_pad_nd": Entry(pad_rule),
    "aten::diag_embed": Entry(diag_embed_rule),
    "aten::diagonal": _DIAGONAL,
    "aten::diagonal_copy": _DIAGONAL,
    "aten::flip": Entry(dims_rule),
    "aten::fliplr": Entry(touches(1)),
    "aten::flipud": Entry(touches(0)),
    "aten::native_channel_shuffle": Entry(channel_shuffle_rule),
    "aten::pad": Entry(pad_rule),
    "aten::pixel_shuffle": einsum("... (c r! s!) h w -> ... c (h r!) (w s!)", linear=((0,),), moves=True),
    "aten::pixel_unshuffle": einsum("... c (h r!) (w s!) -> ... (c r! s!) h w", linear=((0,),), moves=True),
    "aten::reflection_pad1d": _EDGE,
    "aten::reflection_pad2d": _EDGE,
    "aten::reflection_pad3d": _EDGE,
    "aten::replication_pad1d": _EDGE,
    "aten::replication_pad2d": _EDGE,
    "aten::replication_pad3d": _EDGE,
    "aten::roll": Entry(dims_rule),
    "aten::rot90": Entry(rot90_rule),
    "aten::tril": _TRIANGLE,
    "aten::triu": _TRIANGLE,
    "aten::unfold": _UNFOLD,
    "aten::unfold_copy": _UNFOLD,
}

UNSUPPORTED: dict[str, str] = {
    "aten::diag": "it makes a matrix or reads a diagonal; every dim takes part",
    "aten::diagflat": "it makes a matrix whose rows and columns are both the one dim",
}
