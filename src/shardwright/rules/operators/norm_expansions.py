"""What normalisations are made of, for when what they normalise over is cut (see `expansions`).

Each takes two small sums, a mean and then the squares of the distances from it, as the kernels do: squares of large
values less the square of a large mean would lose digits. Half precision is raised to float32 and rounded once, at the
end, as in the kernels.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

Arguments = Mapping[str, Any]


def raised(x: Tensor) -> Tensor:
    """The tensor in the precision that kernels compute in."""
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


def _trailing(a: Arguments) -> list[int]:
    ndim = a["input"].ndim
    return list(range(ndim - len(a["normalized_shape"]), ndim))


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int] | None = None) -> Tensor:
    """``x * weight + bias``, either absent or both; ``shape``: what they are seen as."""
    for is_weight, affine in ((True, weight), (False, bias)):
        if affine is not None:
            seen = affine if shape is None else affine.view(shape)
            x = x * seen if is_weight else x + seen
    return x


def _layer_norm(a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    x, dims = raised(a["input"]), _trailing(a)
    mean = x.mean(dims, keepdim=True)
    distance = x - mean
    scale = torch.rsqrt((distance * distance).mean(dims, keepdim=True) + a["eps"])
    return _scaled(distance * scale, a["weight"], a["bias"]).to(a["input"].dtype), mean, scale


def layer_norm(a: Arguments) -> Tensor:
    """A mean over the trailing dims, then a mean of squares."""
    return _layer_norm(a)[0]


def native_layer_norm(a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """`layer_norm` with the mean and the scale."""
    dtype = a["input"].dtype
    found, mean, scale = _layer_norm(a)
    return found, mean.to(dtype), scale.to(dtype)


def fused_rms_norm(a: Arguments) -> tuple[Tensor, Tensor]:
    """A mean of squares over the trailing dims, and the scale."""
    x = raised(a["input"])
    eps = torch.finfo(x.dtype).eps if a["eps"] is None else a["eps"]
    scale = torch.rsqrt((x * x).mean(_trailing(a), keepdim=True) + eps)
    return _scaled(x * scale, a["weight"], None).to(a["input"].dtype), scale


def rms_norm(a: Arguments) -> Tensor:
    """A mean of squares over the trailing dims."""
    return fused_rms_norm(a)[0]


def _members(channels: int, groups: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's group, and as a matrix (channels, groups) of ones and zeros.

    Ranks may hold parts of several groups, which no view to (groups, channels of each) could say.
    """
    group = torch.arange(channels, device=like.device) // (channels // groups)
    return group, (group.unsqueeze(1) == torch.arange(groups, device=like.device)).to(like.dtype)


def _group_norm(a: Arguments, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    x = raised(a["input"])
    channels, places = x.shape[1], list(range(2, x.ndim))
    seen = [1, channels, *(1 for _ in places)]
    if groups == 1:
        dims = [1, *places]

        def mean_of(y: Tensor) -> tuple[Tensor, Tensor]:
            found = y.mean(dims, keepdim=True)
            return found.view(-1, 1), found
    else:
        group, members = _members(channels, groups, x)
        count = prod(x.shape[2:]) * (channels // groups)

        def mean_of(y: Tensor) -> tuple[Tensor, Tensor]:
            found = ((y.sum(places) if places else y) @ members) / count
            return found, found.index_select(1, group).view([-1, *seen[1:]])

    means, mean = mean_of(x)
    distance = x - mean
    spreads, spread = mean_of(distance * distance)
    found = _scaled(distance * torch.rsqrt(spread + a["eps"]), a["weight"], a["bias"], seen)
    return found.to(a["input"].dtype), means, torch.rsqrt(spreads + a["eps"])


def group_norm(a: Arguments) -> Tensor | None:
    """Sums of every channel, then of every group, of the values and of the squares."""
    return _group_norm(a, a["num_groups"])[0] if isinstance(a["input"].shape[1], int) else None


def native_group_norm(a: Arguments) -> tuple[Tensor, Tensor, Tensor] | None:
    """`group_norm` with the mean and the scale."""
    if not isinstance(a["input"].shape[1], int):
        return None
    found, mean, scale = _group_norm(a, a["group"])
    return found, mean.to(a["input"].dtype), scale.to(a["input"].dtype)


def _normalized(a: Arguments, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The input less its mean over ``dims``, over its spread, scaled by channel (dim 1); the mean; the variance."""
    x, count = raised(a["input"]), prod(a["input"].shape[dim] for dim in dims)
    # Divided by the count, as a mean over a number of entries that is not known is not cut.
    mean = x.sum(dims, keepdim=True) / count
    distance = x - mean
    spread = (distance * distance).sum(dims, keepdim=True) / count
    shape = [1, -1, *(1 for _ in x.shape[2:])]
    found = _scaled(distance * torch.rsqrt(spread + a["eps"]), a["weight"], a["bias"], shape)
    return found.to(a["input"].dtype), mean, spread


def instance_norm(a: Arguments) -> Tensor | None:
    """Means over all places of a channel; None where it keeps statistics."""
    if not a["use_input_stats"] or a["running_mean"] is not None or a["running_var"] is not None:
        return None
    return _normalized(a, [*range(2, a["input"].ndim)])[0]


def batch_norm(a: Arguments) -> Tensor | None:
    """Means over the batch and all places; None where statistics are given or kept."""
    if not a["training"] or a["running_mean"] is not None or a["running_var"] is not None:
        return None
    return _normalized(a, [0, *range(2, a["input"].ndim)])[0]


def native_batch_norm(a: Arguments) -> tuple[Tensor, Tensor, Tensor] | None:
    """`batch_norm` with the mean and the scale that it found; None where statistics are given."""
    if not a["training"] or a.get("running_mean") is not None:
        return None
    found, mean, spread = _normalized(a, [0, *range(2, a["input"].ndim)])
    return found, *_saved(a, mean, spread)


def _saved(a: Arguments, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the scale, in the dtype of the weight or of what else there is one a channel of."""
    dtype = next(a[name].dtype for name in ("weight", "running_mean", "input") if a.get(name) is not None)
    return mean.flatten().to(dtype), torch.rsqrt(spread + a["eps"]).flatten().to(dtype)


def _moved(running: Tensor, found: Tensor, momentum: float) -> Tensor:
    return (raised(running) * (1 - momentum) + found.flatten() * momentum).to(running.dtype)


def batch_norm_with_statistics(*, reserves: bool) -> Any:
    """A training batch norm that gives its statistics, moved on: two sums a channel (``reserves``: and room unused)."""

    def expand(a: Arguments) -> tuple[Tensor, ...] | None:
        if not a.get("training", True):
            return None
        dims = [0, *range(2, a["input"].ndim)]
        found, mean, spread = _normalized(a, dims)
        count = prod(a["input"].shape[dim] for dim in dims)
        moved = (
            _moved(a["running_mean"], mean, a["momentum"]),
            # Of a sample, the variance of what it is drawn from.
            _moved(a["running_var"], spread * count / (count - 1), a["momentum"]),
        )
        room = (torch.zeros(0, dtype=torch.uint8, device=found.device),) if reserves else ()
        return found, *_saved(a, mean, spread), *room, *moved

    return expand


def weight_norm(*, with_norms: bool) -> Any:
    """``_weight_norm``: the length of every slice along a dim; dim -1 stands for one length for all."""

    def expand(a: Arguments) -> Any:
        v, along = raised(a["v"]), a["dim"]
        dims = [dim for dim in range(v.ndim) if dim != along]
        length = (v * v).sum(dims, keepdim=True).sqrt()
        found = (v * (a["g"] / length)).to(a["v"].dtype)
        return (found, length.view(a["g"].shape)) if with_norms else found

    return expand


NORMS: dict[str, Any] = {
    "aten::_batch_norm_with_update_functional": batch_norm_with_statistics(reserves=True),
    "aten::_fused_rms_norm": fused_rms_norm,
    "aten::_native_batch_norm_legit.no_stats": native_batch_norm,
    "aten::_native_batch_norm_legit_functional": batch_norm_with_statistics(reserves=False),
    "aten::_weight_norm": weight_norm(with_norms=False),
    "aten::_weight_norm_interface": weight_norm(with_norms=True),
    "aten::batch_norm": batch_norm,
    "aten::group_norm": group_norm,
    "aten::instance_norm": instance_norm,
    "aten::layer_norm": layer_norm,
    "aten::native_batch_norm": native_batch_norm,
    "aten::native_group_norm": native_group_norm,
    "aten::native_layer_norm": native_layer_norm,
    "aten::rms_norm": rms_norm,
}
