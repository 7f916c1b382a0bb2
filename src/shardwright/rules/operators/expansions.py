"""What some operators are made of, for when the dim they work along is cut.

`softmax`, `argmax`, `cross_entropy` … are one operator because one kernel does them best; their rules keep the dim
whole. Where that would gather a large operand, the operator is written out instead (see `expand`): maxima and sums are
taken of every rank's share, and only those small partial results are reduced. Each function takes the operator's
arguments by name and gives its results, or None where it does not apply. A vocabulary-parallel cross-entropy is
Megatron-LM's idea (Shoeybi et al., 2019); the others follow from it.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from shardwright.rules.operators.distance_expansions import DISTANCES, dims_given
from shardwright.rules.operators.gradient_expansions import GRADIENTS
from shardwright.rules.operators.halo_expansions import HALOS
from shardwright.rules.operators.norm_expansions import NORMS
from shardwright.rules.operators.place_expansions import PLACES, places
from shardwright.rules.operators.range_expansions import RANGES
from shardwright.rules.operators.scan_expansions import EXPANDED_SCANS

Expansion = Callable[[Mapping[str, Any]], Any]

_NONE, _MEAN = 0, 1


_HALF = (torch.half, torch.bfloat16)


def _in_single(function: Expansion) -> Expansion:
    """The function computed in float32 where its result is of half precision, as kernels do, and rounded at the end."""

    def expand(a: Mapping[str, Any]) -> Any:
        dtype = a.get("dtype") or a["self"].dtype
        if dtype not in _HALF or a.get("half_to_float"):
            return function(a)
        raised = {k: v.float() if isinstance(v, Tensor) and v.dtype in _HALF else v for k, v in a.items()}
        found = function({**raised, "self": a["self"].to(dtype).float(), "dtype": None})
        return tuple(one.to(dtype) for one in found) if isinstance(found, tuple) else found.to(dtype)

    return expand


def _largest(x: Tensor, dims: list[int]) -> Tensor:
    """The maximum, kept as a dim; zero where it is infinite, so that differences to it are numbers."""
    found = x.amax(dims, keepdim=True)
    return torch.where(found.isinf(), torch.zeros_like(found), found)


def _kept(x: Tensor, dims: list[int], *, keepdim: bool) -> Tensor:
    return x if keepdim else x.squeeze(dims)


def logsumexp(a: Mapping[str, Any]) -> Tensor:
    """``log(sum(exp(x)))``: a maximum, then a sum."""
    x, dims = a["self"], dims_given(a["self"], a["dim"])
    shift = _largest(x, dims)
    return _kept((x - shift).exp().sum(dims, keepdim=True).log() + shift, dims, keepdim=a["keepdim"])


def softmax(a: Mapping[str, Any]) -> Tensor:
    """A maximum, then a sum."""
    x = a["self"].to(a["dtype"]) if a.get("dtype") else a["self"]
    if a.get("half_to_float"):
        x = x.float()
    dims = dims_given(x, a["dim"])
    powers = (x - x.amax(dims, keepdim=True)).exp()
    return powers / powers.sum(dims, keepdim=True)


def safe_softmax(a: Mapping[str, Any]) -> Tensor:
    """`softmax`, but zeros where every element is minus infinity."""
    x = a["self"].to(a["dtype"]) if a.get("dtype") else a["self"]
    dims = dims_given(x, a["dim"])
    largest = x.amax(dims, keepdim=True)
    powers = (x - torch.where(largest == float("-inf"), 0, largest)).exp()
    total = powers.sum(dims, keepdim=True)
    return powers / torch.where(total == 0, torch.ones_like(total), total)


def log_softmax(a: Mapping[str, Any]) -> Tensor:
    """A maximum, then a sum."""
    x = a["self"].to(a["dtype"]) if a.get("dtype") else a["self"]
    if a.get("half_to_float"):
        x = x.float()
    dims = dims_given(x, a["dim"])
    moved = x - x.amax(dims, keepdim=True)
    return moved - moved.exp().sum(dims, keepdim=True).log()


def _first(x: Tensor, best: Tensor, dims: list[int], *, keepdim: bool) -> Tensor:
    """The first index of an extreme value, or of NaN, in ``dims`` read as one."""
    size = prod(x.shape[dim] for dim in dims)
    hit = x == best
    hit = hit | x.isnan() if x.is_floating_point() else hit
    return torch.where(hit, places(x, dims), size).amin(dims, keepdim=keepdim)


def extreme_index(*, largest: bool) -> Expansion:
    """``argmax``, ``argmin``: the extreme value, then the least index that has it."""

    def expand(a: Mapping[str, Any]) -> Tensor | None:
        x = a["self"]
        if x.ndim == 0:
            return None
        dims = dims_given(x, a["dim"])
        best = x.amax(dims, keepdim=True) if largest else x.amin(dims, keepdim=True)
        return _first(x, best, dims, keepdim=a["keepdim"])

    return expand


def extreme(*, largest: bool) -> Expansion:
    """``max``, ``min`` along a dim: values and indices."""

    def expand(a: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        x, dim = a["self"], int(a["dim"]) % max(a["self"].ndim, 1)
        best = x.amax(dim, keepdim=True) if largest else x.amin(dim, keepdim=True)
        return _kept(best, [dim], keepdim=a["keepdim"]), _first(x, best, [dim], keepdim=a["keepdim"])

    return expand


def both_extremes(a: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """``aminmax``."""
    x, dims = a["self"], dims_given(a["self"], a["dim"])
    return x.amin(dims, keepdim=a["keepdim"]), x.amax(dims, keepdim=a["keepdim"])


def truth(*, every: bool) -> Expansion:
    """``all``, ``any``: the least, or largest, truth value."""

    def expand(a: Mapping[str, Any]) -> Tensor:
        x, dims = a["self"], dims_given(a["self"], a.get("dim"))
        numbers = (x != 0).to(torch.int32)
        keepdim = bool(a.get("keepdim", False))
        return (numbers.amin(dims, keepdim=keepdim) if every else numbers.amax(dims, keepdim=keepdim)) != 0

    return expand


def _moments(a: Mapping[str, Any]) -> tuple[Tensor, Tensor, list[int], bool]:
    x, dims, keepdim = a["self"], dims_given(a["self"], a.get("dim")), bool(a.get("keepdim", False))
    count = 1
    for d in dims:
        count *= x.shape[d]
    correction = a.get("correction", 1) if "correction" in a else int(bool(a.get("unbiased", True)))
    correction = 1 if correction is None else correction
    mean = x.mean(dims, keepdim=True)
    distance = x - mean
    left = max(count - correction, 0)
    return (distance * distance).sum(dims, keepdim=True) / left, mean, dims, keepdim


def variance(*, root: bool, with_mean: bool) -> Expansion:
    """``var``, ``std`` and the forms that give the mean too: a mean, then a sum of squares."""

    def expand(a: Mapping[str, Any]) -> Any:
        if a["self"].is_complex():
            return None
        found, mean, dims, keepdim = _moments(a)
        spread = _kept(found.sqrt() if root else found, dims, keepdim=keepdim)
        return (spread, _kept(mean, dims, keepdim=keepdim)) if with_mean else spread

    return expand


def cross_entropy(a: Mapping[str, Any]) -> Tensor:
    """Cross-entropy of class indices: the maximum over classes, then their sums in one tensor."""
    x, target, weight = a["self"], a["target"], a["weight"]
    if target.is_floating_point():
        return _soft_cross_entropy(a)
    axis, smoothing = min(x.ndim - 1, 1), a["label_smoothing"]
    shifted = x - x.amax([axis], keepdim=True)
    valid, hit, scale = _targets(x, target, weight, axis, a["ignore_index"])
    sums = [shifted.exp().sum(axis), torch.where(hit, shifted, 0).sum(axis)]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    if smoothing:
        sums.append((shifted if weight is None else shifted * weight.view(shape)).sum(axis))
    # One tensor, so that one collective reduces all of them.
    total, picked, *rest = torch.stack(sums).unbind(0)
    loss = (total.log() - picked) * scale
    if smoothing:
        all_weights = x.shape[axis] if weight is None else weight.sum()
        loss = (1 - smoothing) * loss + smoothing / x.shape[axis] * (total.log() * all_weights - rest[0])
    return _reduced(torch.where(valid, loss, 0), torch.where(valid, scale, 0), a["reduction"])


def _soft_cross_entropy(a: Mapping[str, Any]) -> Tensor:
    """Cross-entropy of class probabilities: the maximum over classes, then their sums."""
    x, target, weight, smoothing = a["self"], a["target"], a["weight"], a["label_smoothing"]
    axis = min(x.ndim - 1, 1)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / x.shape[axis]
    shares = target if weight is None else target * weight.view([-1 if i == axis else 1 for i in range(x.ndim)])
    shifted = x - _largest(x, [axis])
    sums = [one.sum(axis) for one in (shifted.exp(), shares, shares * shifted)]
    total, share, picked = torch.stack(sums).unbind(0)
    loss = total.log() * share - picked
    return loss if a["reduction"] == _NONE else loss.mean() if a["reduction"] == _MEAN else loss.sum()


def nll(a: Mapping[str, Any]) -> Any:
    """Negative log-likelihood of class indices: each row's own class is summed out of its row."""
    x, target, weight = a["self"], a["target"], a["weight"]
    axis = min(x.ndim - 1, 1)
    valid, hit, scale = _targets(x, target, weight, axis, a["ignore_index"])
    loss = -torch.where(hit, x, 0).sum(axis) * scale
    return _reduced(torch.where(valid, loss, 0), torch.where(valid, scale, 0), a["reduction"])


def nll_with_weight(a: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """`nll` with the summed weights of the rows that count; none where nothing is summed."""
    x, target = a["self"], a["target"]
    axis = min(x.ndim - 1, 1)
    valid, _, scale = _targets(x, target, a["weight"], axis, a["ignore_index"])
    total = x.new_zeros([]) if a["reduction"] == _NONE else torch.where(valid, scale, 0).sum()
    return nll(a), total


def _targets(
    x: Tensor, target: Tensor, weight: Tensor | None, axis: int, ignored: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows count, where each row's class is, and each row's weight."""
    valid = target != ignored
    safe = torch.where(valid, target, 0)
    hit = places(x, [axis]) == safe.unsqueeze(axis)
    scale = torch.ones_like(target, dtype=x.dtype) if weight is None else weight[safe]
    return valid, hit, scale


def _reduced(loss: Tensor, scale: Tensor, reduction: int) -> Tensor:
    if reduction == _NONE:
        return loss
    return loss.sum() / scale.sum() if reduction == _MEAN else loss.sum()


REDUCTION_EXPANSIONS: dict[str, Expansion] = {
    "aten::_is_all_true": truth(every=True),
    "aten::_is_any_true": truth(every=False),
    "aten::_log_softmax": _in_single(log_softmax),
    "aten::_safe_softmax": _in_single(safe_softmax),
    "aten::_softmax": _in_single(softmax),
    "aten::all": truth(every=True),
    "aten::aminmax": both_extremes,
    "aten::any": truth(every=False),
    "aten::argmax": extreme_index(largest=True),
    "aten::argmin": extreme_index(largest=False),
    "aten::cross_entropy_loss": _in_single(cross_entropy),
    "aten::log_softmax.int": _in_single(log_softmax),
    "aten::logsumexp": _in_single(logsumexp),
    "aten::max.dim": extreme(largest=True),
    "aten::min.dim": extreme(largest=False),
    "aten::nll_loss": _in_single(nll),
    "aten::nll_loss2d": _in_single(nll),
    "aten::nll_loss2d_forward": _in_single(nll_with_weight),
    "aten::nll_loss_forward": _in_single(nll_with_weight),
    "aten::nll_loss_nd": _in_single(nll),
    "aten::softmax.int": _in_single(softmax),
    "aten::std": _in_single(variance(root=True, with_mean=False)),
    "aten::std_mean": _in_single(variance(root=True, with_mean=True)),
    "aten::var": _in_single(variance(root=False, with_mean=False)),
    "aten::var_mean": _in_single(variance(root=False, with_mean=True)),
}

EXPANSIONS: dict[str, Expansion] = {
    **REDUCTION_EXPANSIONS,
    **GRADIENTS,
    **NORMS,
    **DISTANCES,
    **PLACES,
    **RANGES,
    **EXPANDED_SCANS,
    **HALOS,
}
