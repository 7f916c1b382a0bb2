"""Convolutions and what goes with them: batch and channels are cut, space is whole."""

from typing import Any

import torch

from shardwright.layout.sizes import Size, product
from shardwright.rules.local import dense, run_dense
from shardwright.rules.registry import Entry, einsum, notation_rule
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten


def convolution_rule(call: Call) -> Rule | None:
    """``n (g i) s…, (g o) i k…, (g o) -> n (g o) s'…``; input channels are summed, the bias joins once.

    Whole groups may be cut (depthwise), or the output or input channels within every group: each rank then holds a
    share of all groups. Transposed: the weight is ``(g i) o k…``.
    """
    source, weight = call.operands[0], call.operands[1]
    space = weight.ndim - 2
    if source.ndim < space + 1:
        return None
    groups = int(call.arguments.get("groups", 1))
    is_transposed = bool(call.arguments.get("transposed", "transpose" in call.schema_name))
    per_group = [size // groups if isinstance(size, int) else None for size in _channels(call, space)]
    if None in per_group:
        return None
    sizes: dict[str, Size] = {"i": per_group[0], "o": per_group[1], "g": groups}
    fixed: set[str] = set()
    outer, inner = Term(("g", "i")), Term(("g", "o"))
    kernel = tuple(Term((f"k{d}",)) for d in range(space))
    sizes.update((f"k{d}", size) for d, size in enumerate(weight.shape[2:]))
    weight_dims = (outer, Term(("o",)), *kernel) if is_transposed else (inner, Term(("i",)), *kernel)
    left, right = _spatial(call, space, sizes)
    batch = tuple(Term((f"n{d}",)) for d in range(source.ndim - space - 1))
    sizes.update((term.factors[0], size) for term, size in zip(batch, source.shape, strict=False))
    fixed |= {name for name in sizes if name[0] in "kst"}
    operands: list[Dims] = [(*batch, outer, *left), weight_dims]
    with_bias = len(call.operands) > 2
    if with_bias:
        operands.append((inner,))
    added = frozenset({2} if with_bias else ())
    # Every place of the kernel meets every place of the result, or, transposed, of the source.
    elsewhere = "t" if is_transposed else "s"
    return Rule(
        operands=tuple(operands),
        results=((*batch, inner, *right),),
        sizes=sizes,
        fixed=frozenset(fixed),
        reduces={"i": "sum"},
        added=added,
        linear=(frozenset({0}) | added, frozenset({1}) | added),
        multiplies=(tuple(name for name in sizes if name[0] != elsewhere),),
        localize=local_convolution,
    )


def convolution_backward_rule(call: Call) -> Rule | None:
    """Gradients of a convolution: the weight's adds up over the batch, the input's over the channels that come out.

    What is cut is as in `convolution_rule`. Input channels only without the gradient of a bias, which has none of them.
    """
    gradient, source, weight = call.operands
    space, groups = weight.ndim - 2, int(call["groups"])
    channels = [size // groups for size in (source.shape[1], gradient.shape[1]) if isinstance(size, int)]
    if source.ndim != space + 2 or len(channels) < 2:
        return None
    sizes: dict[str, Size] = {"n": source.shape[0], "g": groups, "i": channels[0], "o": channels[1]}
    sides = []
    for prefix, tensor in (("t", gradient), ("s", source), ("k", weight)):
        names = [f"{prefix}{d}" for d in range(space)]
        sizes.update(zip(names, tensor.shape[2:], strict=True))
        sides.append(tuple(Term((name,)) for name in names))
    batch, outer, inner = Term(("n",)), Term(("g", "i")), Term(("g", "o"))
    own = (outer, Term(("o",))) if call["transposed"] else (inner, Term(("i",)))
    operands = ((batch, inner, *sides[0]), (batch, outer, *sides[1]), (*own, *sides[2]))
    dims = (operands[1], operands[2], (inner,))
    results = tuple(d if r is not None else None for d, r in zip(dims, call.results, strict=True))
    fixed = {name for name in sizes if name[0] in "kst"} | ({"i"} if results[2] is not None else set())
    elsewhere = "t" if call["transposed"] else "s"
    product_of = tuple(name for name in sizes if name[0] != elsewhere)
    return Rule(
        operands,
        results,
        sizes,
        frozenset(fixed),
        reduces={"n": "sum", "o": "sum"},
        linear=(frozenset({0}),),
        multiplies=(product_of,) * sum(one is not None for one in results[:2]),
        localize=local_backward,
    )


def local_backward(local: Local) -> Any:
    """The gradients of this rank's channels; the bias has as many."""
    changed = {name: dense(local, local.arguments[name]) for name in ("grad_output", "input", "weight")}
    groups, outs = (local.strategy.factor_cut(name) for name in "go")
    if groups is not None:
        changed["groups"] = int(groups.local_size(local.rank))
    if local.arguments["bias_sizes"] and (groups is not None or outs is not None):
        own = [cut.local_size(local.rank) if cut else local.rule.sizes[n] for n, cut in (("g", groups), ("o", outs))]
        changed["bias_sizes"] = [int(product(own))]
    return local.run_call(**changed)


def _channels(call: Call, space: int) -> tuple[Size, Size]:
    return call.operands[0].shape[-space - 1], call.result.shape[-space - 1]


def _spatial(call: Call, space: int, sizes: dict[str, Size]) -> tuple[Dims, Dims]:
    """The spatial dims before and after, none of them shared."""
    sides = []
    for prefix, tensor in (("s", call.operands[0]), ("t", call.result)):
        names = [f"{prefix}{d}" for d in range(space)]
        sizes.update(zip(names, tensor.shape[-space:] if space else (), strict=True))
        sides.append(tuple(Term((name,)) for name in names))
    return sides[0], sides[1]


def local_convolution(local: Local) -> Any:
    """The convolution over this rank's groups, on dense operands.

    A rank without input channels convolves one channel of zeros a group, which leaves its share of the bias.
    """
    inputs = local.strategy.factor_cut("i")
    groups = int(local.arguments.get("groups", 1))
    if inputs is not None and inputs.local_size(local.rank) == 0:
        is_transposed = local.rule.operands[1][0].factors[-1] == "i"
        channel_dim = local.call.operands[0].ndim - local.call.operands[1].ndim + 1
        weight = (0, groups) if is_transposed else (1, 1)
        for name, dim, count in (("input", channel_dim, groups), ("weight", *weight)):
            ndim = local.call.operands[name == "weight"].ndim
            pad = [0, 0] * (ndim - 1 - dim) + [0, count]
            local.arguments[name] = local.run(aten.constant_pad_nd.default, local.arguments[name], pad)
    cut = local.strategy.factor_cut("g")
    if cut is not None:
        groups = int(cut.local_size(local.rank))
    changed: dict[str, Any] = {"groups": groups} if "groups" in local.arguments else {}
    for name in ("input", "weight"):
        changed[name] = dense(local, local.arguments[name])
    return local.run_call(**changed)


def spatial_rule(call: Call) -> Rule:
    """Pooling and interpolation: the leading dims of equal size pass, space may change."""
    source = call.operands[0]
    space = _num_spatial(call)
    lead = source.ndim - space
    sizes: dict[str, Size] = {f"d{d}": size for d, size in enumerate(source.shape[:lead])}
    batch = tuple(Term((f"d{d}",)) for d in range(lead))
    sizes.update((f"s{d}", size) for d, size in enumerate(source.shape[lead:]))
    results: list[Dims | None] = []
    for index, result in enumerate(call.results):
        if result is None:
            results.append(None)
            continue
        names = [f"t{index}{d}" for d in range(space)]
        sizes.update(zip(names, result.shape[lead:], strict=True))
        results.append((*batch, *(Term((name,)) for name in names)))
    operands: list[Dims] = [(*batch, *(Term((f"s{d}",)) for d in range(space)))]
    for index, tensor in enumerate(call.operands[1:]):
        # Indices, and the image in backward forms: the same batch and channels, a space of their own.
        names = [f"x{index}{d}" for d in range(space)]
        sizes.update(zip(names, tensor.shape[lead:], strict=True))
        operands.append((*batch, *(Term((name,)) for name in names)))
    fixed = frozenset(name for name in sizes if name[0] != "d")
    is_linear = "max" not in call.schema_name
    linear = (frozenset({0}),) if is_linear and len(call.operands) == 1 else ()
    return Rule(tuple(operands), tuple(results), sizes, fixed, linear=linear, localize=local_spatial)


def _num_spatial(call: Call) -> int:
    name = call.schema_name
    for count in (1, 2, 3):
        if f"{count}d" in name:
            return count
    # Interpolations without a number in their name: all but batch and channels.
    return call.operands[0].ndim - 2


def local_spatial(local: Local) -> Any:
    """On dense operands: a channel slice is strided, which some of these kernels refuse."""
    name = next(iter(local.arguments))
    return local.run_call(**{name: dense(local, local.arguments[name])})


def patches_rule(call: Call) -> Rule:
    """``im2col`` and ``col2im``: channels and the window's places share a dim, channels first."""
    is_col = call.schema_name == "aten::col2im"
    image, columns = (call.result, call.operands[0]) if is_col else (call.operands[0], call.result)
    batch = "n " if image.ndim == 4 else ""
    window = product(call["kernel_size"])
    sizes: dict[str, Size] = {"c": image.shape[-3], "k": window, "h": image.shape[-2], "w": image.shape[-1]}
    sizes["l"] = columns.shape[-1]
    sizes.update({"n": image.shape[0]} if batch else {})
    lead = (Term(("n",)),) if batch else ()
    whole = (*lead, Term(("c",)), Term(("h",)), Term(("w",)))
    taken = (*lead, Term(("c", "k")), Term(("l",)))
    sides = (taken, whole) if is_col else (whole, taken)
    return Rule((sides[0],), (sides[1],), sizes, frozenset("khwl"), linear=(frozenset({0}),), localize=local_spatial)


def grid_rule(call: Call) -> Rule:
    """``grid_sampler``: channels and sampled places are free, the image's space is whole; linear in the image."""
    space = call.operands[0].ndim - 2
    image, places = (" ".join(f"{p}{d}" for d in range(space)) for p in ("s", "t"))
    image = " ".join(f"{name}!" for name in image.split())
    shapes = [t.shape for t in call.operands]
    text = f"n c {image}, n {places} x! -> n c {places}"
    return notation_rule(text, shapes, [call.result.shape], linear=(frozenset({0}),), localize=run_dense)


def affine_grid_rule(call: Call) -> Rule:
    """``affine_grid_generator``: a matrix for every image; places and coordinates are whole."""
    places = " ".join(f"t{d}!" for d in range(call.result.ndim - 2))
    shapes = [call.operands[0].shape], [call.result.shape]
    return notation_rule(f"n r! c! -> n {places} x!", *shapes, linear=(frozenset({0}),), size_arg="size")


_CONVOLUTION, _SPATIAL = Entry(convolution_rule), Entry(spatial_rule)
_GRID, _PATCHES = Entry(grid_rule), Entry(patches_rule)

RULES: dict[str, Entry] = {
    "aten::_adaptive_avg_pool2d": _SPATIAL,
    "aten::_adaptive_avg_pool2d_backward": _SPATIAL,
    "aten::_adaptive_avg_pool3d": _SPATIAL,
    "aten::_convolution": _CONVOLUTION,
    "aten::_convolution_mode": _CONVOLUTION,
    "aten::_upsample_bicubic2d_aa": _SPATIAL,
    "aten::_upsample_bilinear2d_aa": _SPATIAL,
    "aten::_upsample_nearest_exact1d": _SPATIAL,
    "aten::_upsample_nearest_exact2d": _SPATIAL,
    "aten::_upsample_nearest_exact3d": _SPATIAL,
    "aten::adaptive_avg_pool1d": _SPATIAL,
    "aten::adaptive_avg_pool2d": _SPATIAL,
    "aten::adaptive_avg_pool3d": _SPATIAL,
    "aten::adaptive_max_pool1d": _SPATIAL,
    "aten::adaptive_max_pool2d": _SPATIAL,
    "aten::adaptive_max_pool3d": _SPATIAL,
    "aten::affine_grid_generator": Entry(affine_grid_rule),
    "aten::avg_pool1d": _SPATIAL,
    "aten::avg_pool2d": _SPATIAL,
    "aten::avg_pool2d_backward": _SPATIAL,
    "aten::avg_pool3d": _SPATIAL,
    "aten::col2im": _PATCHES,
    "aten::conv1d": _CONVOLUTION,
    "aten::conv2d": _CONVOLUTION,
    "aten::conv3d": _CONVOLUTION,
    "aten::conv_tbc": einsum("s! b i, k! i o, o -> t! b o", multilinear=True, added=(2,), localize=run_dense),
    "aten::conv_transpose1d": _CONVOLUTION,
    "aten::conv_transpose2d.input": _CONVOLUTION,
    "aten::conv_transpose3d.input": _CONVOLUTION,
    "aten::convolution": _CONVOLUTION,
    "aten::convolution_backward": Entry(convolution_backward_rule),
    "aten::grid_sampler": _GRID,
    "aten::grid_sampler_2d": _GRID,
    "aten::grid_sampler_3d": _GRID,
    "aten::im2col": _PATCHES,
    "aten::max_pool1d": _SPATIAL,
    "aten::max_pool1d_with_indices": _SPATIAL,
    "aten::max_pool2d": _SPATIAL,
    "aten::max_pool2d_with_indices": _SPATIAL,
    "aten::max_pool2d_with_indices_backward": _SPATIAL,
    "aten::max_pool3d": _SPATIAL,
    "aten::max_pool3d_with_indices": _SPATIAL,
    "aten::max_unpool2d": _SPATIAL,
    "aten::max_unpool3d": _SPATIAL,
    "aten::upsample_bicubic2d": _SPATIAL,
    "aten::upsample_bilinear2d": _SPATIAL,
    "aten::upsample_linear1d": _SPATIAL,
    "aten::upsample_nearest1d": _SPATIAL,
    "aten::upsample_nearest2d": _SPATIAL,
    "aten::upsample_nearest3d": _SPATIAL,
    "aten::upsample_trilinear3d": _SPATIAL,
}
