"""Reductions: some dims are summed, maximised … away; cut along them, every rank reduces its share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from shardwright.layout import Shard, Size, product
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Local, Localizer, Rule, Term

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
    linear = (frozenset({0}),) if call.op._schema.name == "aten::cumsum" else ()
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


_ALONG, _BOTH, _WHOLE = Entry(along_rule), Entry(both_rule), reduction(None)

RULES: dict[str, Entry] = {
    "aten::_log_softmax": _ALONG,
    "aten::_safe_softmax": _ALONG,
    "aten::_softmax": _ALONG,
    "aten::all": _WHOLE,
    "aten::amax": Entry(extremum("max")),
    "aten::amin": Entry(extremum("min")),
    "aten::any": _WHOLE,
    "aten::argmax": _WHOLE,
    "aten::argmin": _WHOLE,
    "aten::argsort": _ALONG,
    "aten::count_nonzero": reduction("sum"),
    "aten::cummax": _ALONG,
    "aten::cummin": _ALONG,
    "aten::cumprod": _ALONG,
    "aten::cumsum": _ALONG,
    "aten::linalg_vector_norm": _WHOLE,
    "aten::log_softmax.int": _ALONG,
    "aten::logcumsumexp": _ALONG,
    "aten::logsumexp": _WHOLE,
    "aten::max": Entry(extremum("max")),
    "aten::max.dim": _BOTH,
    "aten::mean": Entry(mean_rule),
    "aten::median.dim": _BOTH,
    "aten::min": Entry(extremum("min")),
    "aten::min.dim": _BOTH,
    "aten::norm.ScalarOpt_dim": _WHOLE,
    "aten::prod": reduction("product"),
    "aten::softmax.int": _ALONG,
    "aten::sort": _ALONG,
    "aten::sort.stable": _ALONG,
    "aten::std": _WHOLE,
    "aten::std.correction": _WHOLE,
    "aten::std.dim": _WHOLE,
    "aten::std_mean.correction": _WHOLE,
    "aten::sum": reduction("sum", linear=True),
    "aten::topk": Entry(topk_rule),
    "aten::var": _WHOLE,
    "aten::var.correction": _WHOLE,
    "aten::var.dim": _WHOLE,
    "aten::var_mean.correction": _WHOLE,
}
