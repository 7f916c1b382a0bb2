"""Reductions: some dims are summed, maximised … away; cut along them, every rank reduces its share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from shardwright.layout.layout import Shard
from shardwright.layout.sizes import Size, product
from shardwright.rules.local import run_dense
from shardwright.rules.operators.dims import dim_of, named_dims, put
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Local, Localizer, Rule, TensorMeta, Term

aten = torch.ops.aten


def reduced_dims(call: Call) -> list[int]:
    """The dims a call reduces, ascending; all of them when it names none."""
    ndim = call.operands[0].ndim
    dims = call.arguments.get("dim", call.arguments.get("dims"))
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(ndim))
    dims = [dims] if isinstance(dims, int) else dims
    return sorted({int(dim) % max(ndim, 1) for dim in dims}) if ndim else []


def reduction(op: str | None, *, linear: bool = False, localize: Localizer | None = None) -> Entry:
    """Dims named by ``dim`` are reduced by ``op``; None: they may not be cut."""

    def build(call: Call) -> Rule:
        return reduction_rule(call, reduced_dims(call), op, linear=linear, localize=localize)

    return Entry(build)


def reduction_rule(
    call: Call, dims: Sequence[int], op: str | None, *, linear: bool = False, localize: Localizer | None = None
) -> Rule:
    """The rule of a reduction over ``dims`` by ``op``; booleans and unknown sizes under a mean keep them whole."""
    shape = call.operands[0].shape
    source = tuple(Term((f"d{dim}",)) for dim in range(len(shape)))
    keeps = len(shape) > 0 and all(r is None or r.ndim == len(shape) for r in call.results)
    kept = tuple(Term() if dim in dims else term for dim, term in enumerate(source))
    result = (
        kept
        if keeps and len(dims) < len(shape) + 1 and call.result.ndim == len(shape)
        else tuple(term for dim, term in enumerate(source) if dim not in dims)
    )
    sizes: dict[str, Size] = {f"d{dim}": size for dim, size in enumerate(shape)}
    gone = [f"d{dim}" for dim in dims]
    is_bool = call.operands[0].dtype == torch.bool and op != "sum"
    fixed = frozenset(gone) if op is None or is_bool else frozenset()
    return Rule(
        operands=(source,),
        results=tuple(None if r is None else result for r in call.results),
        sizes=sizes,
        fixed=fixed,
        reduces={} if op is None or is_bool else dict.fromkeys(gone, op),
        linear=(frozenset({0}),) if linear else (),
        localize=localize,
    )


def mean_rule(call: Call) -> Rule:
    """``mean``: along a cut dim, a sum over this rank's share divided by the global count."""
    dims = reduced_dims(call)
    known = all(isinstance(call.operands[0].shape[dim], int) for dim in dims)
    return reduction_rule(call, dims, "sum" if known else None, linear=True, localize=local_mean)


def local_mean(local: Local) -> Any:
    """Sum of the local share over the global count, where the mean's own dim is cut."""
    dims = reduced_dims(local.call)
    layout = local.strategy.operands[0]
    if not isinstance(layout, Shard) or layout.dim not in dims:
        return local.run_call()
    count = product(local.call.operands[0].shape[dim] for dim in dims)
    keepdim = bool(local.arguments.get("keepdim", False))
    total = local.run(aten.sum.dim_IntList, local.arguments["self"], dims, keepdim, dtype=local.arguments.get("dtype"))
    return local.run(aten.div.Scalar, total, count)


def both_rule(call: Call) -> Rule:
    """``max.dim`` and its like: values with indices; the dim itself may not be cut."""
    return reduction_rule(call, reduced_dims(call), None)


def extremum(op: str) -> Callable[[Call], Rule]:
    """``max()``/``amax``: reduced by max or min."""

    def build(call: Call) -> Rule:
        return reduction_rule(call, reduced_dims(call), op)

    return build


def along_rule(call: Call) -> Rule:
    """Same shape in and out, one dim may not be cut (softmax, cumsum …)."""
    shape = call.operands[0].shape
    dims = tuple(Term((f"d{dim}",)) for dim in range(len(shape)))
    sizes: dict[str, Size] = {f"d{dim}": size for dim, size in enumerate(shape)}
    along = int(call["dim"]) % max(len(shape), 1)
    linear = (frozenset({0}),) if call.schema_name == "aten::cumsum" else ()
    fixed = frozenset({f"d{along}"}) if shape else frozenset()
    return Rule((dims,), (dims,) * len(call.results), sizes, fixed, linear=linear)


def topk_rule(call: Call) -> Rule:
    """``topk``: along one dim, which may not be cut; values and indices."""
    shape, dim = call.operands[0].shape, int(call["dim"]) % max(call.operands[0].ndim, 1)
    dims = tuple(Term((f"d{i}",)) for i in range(len(shape)))
    sizes: dict[str, Size] = {f"d{i}": size for i, size in enumerate(shape)}
    result = tuple(Term(("k",)) if i == dim else term for i, term in enumerate(dims))
    sizes["k"] = call.result.shape[dim] if shape else 1
    return Rule((dims,), (result if shape else (),) * 2, sizes, frozenset({f"d{dim}", "k"}))


def quantile_rule(call: Call) -> Rule | None:
    """``quantile``: along one dim or all, which are whole; several quantiles make a new first dim."""
    if len(call.operands) == 1:
        return reduction_rule(call, reduced_dims(call), None)
    if call["dim"] is None or call.operands[1].ndim > 1:
        return None
    inner = reduction_rule(
        replace(call, results=(TensorMeta(call.result.shape[call.operands[1].ndim :]),)), reduced_dims(call), None
    )
    several = (Term(("q",)),) * call.operands[1].ndim
    sizes = {**inner.sizes, "q": call.operands[1].shape[0] if several else 1}
    result = inner.results[0]
    assert result is not None, "a quantile is a tensor"
    return Rule((inner.operands[0], several), ((*several, *result),), sizes, inner.fixed)


def first_dim_rule(call: Call) -> Rule:
    """``msort``: along the first dim, which is whole."""
    dims, sizes = named_dims(call.operands[0].shape)
    return Rule((dims,), (dims,), sizes, frozenset({"d0"}))


def renorm_rule(call: Call) -> Rule:
    """``renorm``: each slice along a dim by its own norm; only that dim may be cut."""
    dims, sizes = named_dims(call.operands[0].shape)
    return Rule((dims,), (dims,), sizes, frozenset(sizes) - {f"d{dim_of(call, len(dims))}"})


def sum_to_size_rule(call: Call) -> Rule:
    """``sum_to_size``: dims that are 1 in the result, or not there, are summed."""
    source, target = call.operands[0].shape, call.result.shape
    dims, sizes = named_dims(source)
    offset = len(source) - len(target)
    result = tuple(Term() if size == 1 else dims[offset + i] for i, size in enumerate(target))
    kept = {name for term in result for name in term.factors}
    reduces = {name: "sum" for name in sizes if name not in kept}
    return Rule((dims,), (result,), sizes, reduces=reduces, linear=(frozenset({0}),), size_arg="size")


def integral_rule(call: Call) -> Rule | None:
    """``trapezoid`` and its cumulative form: along a dim, which is whole; sample points lie along it or everywhere."""
    source, sizes = named_dims(call.operands[0].shape)
    dim = dim_of(call, len(source), default=-1)
    operands = [source]
    if len(call.operands) > 1:
        points = call.operands[1]
        if points.ndim not in (1, len(source)) or (points.ndim > 1 and points.shape != call.operands[0].shape):
            return None
        operands.append(source if points.ndim == len(source) else (source[dim],))
    fixed = {f"d{dim}"}
    if call.result.ndim == len(source):
        sizes["t"] = call.result.shape[dim]
        fixed.add("t")
        result = put(source, dim, Term(("t",)))
    else:
        result = put(source, dim)
    return Rule(tuple(operands), (result,), sizes, frozenset(fixed), linear=(frozenset({0}),))


def histc_rule(call: Call) -> Rule:
    """``histc``: counts of all elements add up, where the range is given rather than read off the data."""
    return _counts(call, adds_up=call["min"] != call["max"])


def histogram_rule(call: Call) -> Rule:
    """``histogram``: as `histc_rule`, with weights, and the edges of the bins; densities do not add up."""
    has_edges = isinstance(call["bins"], TensorMeta) or call["range"] is not None
    return _counts(call, adds_up=has_edges and not call["density"])


def _counts(call: Call, *, adds_up: bool) -> Rule:
    dims, sizes = named_dims(call.operands[0].shape)
    reduces = dict.fromkeys(sizes, "sum") if adds_up else {}
    sizes["bins"] = call.result.shape[0]
    results = [(Term(("bins",)),)]
    operands = [dims]
    if len(call.results) > 1:
        sizes["edges"] = sizes["bins"] + 1
        results.append((Term(("edges",)),))
    if isinstance(call.arguments.get("bins"), TensorMeta):
        operands.append(results[1])
    if call.arguments.get("weight") is not None:
        operands.append(dims)
    return Rule(
        tuple(operands),
        tuple(results),
        sizes,
        frozenset(sizes) - frozenset(reduces),
        reduces=reduces,
        multiplies=(tuple(f"d{dim}" for dim in range(len(dims))),),
        independent=frozenset(range(1, len(results))),
        localize=run_dense,
    )


_ALONG, _BOTH, _WHOLE = Entry(along_rule), Entry(both_rule), reduction(None)
_INTEGRAL = Entry(integral_rule)

RULES: dict[str, Entry] = {
    "aten::_is_all_true": _WHOLE,
    "aten::_is_any_true": _WHOLE,
    "aten::_log_softmax": _ALONG,
    "aten::_safe_softmax": _ALONG,
    "aten::_softmax": _ALONG,
    "aten::all": _WHOLE,
    "aten::amax": Entry(extremum("max")),
    "aten::amin": Entry(extremum("min")),
    "aten::aminmax": _WHOLE,
    "aten::any": _WHOLE,
    "aten::argmax": _WHOLE,
    "aten::argmin": _WHOLE,
    "aten::argsort": _ALONG,
    "aten::count_nonzero": reduction("sum"),
    "aten::cummax": _ALONG,
    "aten::cummin": _ALONG,
    "aten::cumprod": _ALONG,
    "aten::cumsum": _ALONG,
    "aten::cumulative_trapezoid": _INTEGRAL,
    "aten::histc": Entry(histc_rule),
    "aten::histogram": Entry(histogram_rule),
    "aten::kthvalue": _BOTH,
    "aten::linalg_vector_norm": _WHOLE,
    "aten::log_softmax.int": _ALONG,
    "aten::logcumsumexp": _ALONG,
    "aten::logsumexp": _WHOLE,
    "aten::max": Entry(extremum("max")),
    "aten::max.dim": _BOTH,
    "aten::mean": Entry(mean_rule),
    "aten::median": _WHOLE,
    "aten::median.dim": _BOTH,
    "aten::min": Entry(extremum("min")),
    "aten::min.dim": _BOTH,
    "aten::mode": _BOTH,
    "aten::msort": Entry(first_dim_rule),
    "aten::nanmean": _WHOLE,
    "aten::nanmedian": _WHOLE,
    "aten::nanmedian.dim": _BOTH,
    "aten::nanquantile": Entry(quantile_rule),
    "aten::nansum": reduction("sum"),
    "aten::norm.Scalar": _WHOLE,
    "aten::norm.ScalarOpt_dim": _WHOLE,
    "aten::norm.ScalarOpt_dim_dtype": _WHOLE,
    "aten::norm.ScalarOpt_dtype": _WHOLE,
    "aten::prod": reduction("product"),
    "aten::quantile": Entry(quantile_rule),
    "aten::renorm": Entry(renorm_rule),
    "aten::softmax.int": _ALONG,
    "aten::sort": _ALONG,
    "aten::sort.stable": _ALONG,
    "aten::std": _WHOLE,
    "aten::std.correction": _WHOLE,
    "aten::std.dim": _WHOLE,
    "aten::std_mean": _WHOLE,
    "aten::sum": reduction("sum", linear=True),
    "aten::sum_to_size": Entry(sum_to_size_rule),
    "aten::topk": Entry(topk_rule),
    "aten::trace": einsum("n! m! -> ", linear=((0,),)),
    "aten::trapezoid": _INTEGRAL,
    "aten::var": _WHOLE,
    "aten::var.correction": _WHOLE,
    "aten::var.dim": _WHOLE,
    "aten::var_mean": _WHOLE,
}
