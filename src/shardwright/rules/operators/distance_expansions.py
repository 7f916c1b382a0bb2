"""What distances, lengths and margins are made of, for when what they sum over is cut.

See `shardwright.rules.operators.expansions`. Half precision is raised to float32 and rounded once, at the end.
"""

from typing import Any

import torch
from torch import Tensor

from shardwright.rules.operators.norm_expansions import Arguments, raised
from shardwright.rules.operators.powers import REDUCED_BY

_own = torch.ops.shardwright

_MEAN, _SUM = 1, 2


def length(x: Tensor, order: float, dims: list[int], *, keepdim: bool = False) -> Tensor:
    """A vector norm of a real tensor: a sum of powers, or an extreme."""
    size = x.abs()
    if order == float("inf"):
        return size.amax(dims, keepdim=keepdim)
    if order == float("-inf"):
        return size.amin(dims, keepdim=keepdim)
    if order == 0:
        return (x != 0).sum(dims, keepdim=keepdim).to(x.dtype)
    if order == 1:
        return size.sum(dims, keepdim=keepdim)
    if order == 2:
        return (x * x).sum(dims, keepdim=keepdim).sqrt()
    return (size**order).sum(dims, keepdim=keepdim) ** (1 / order)


def dims_given(x: Tensor, given: Any) -> list[int]:
    """The dims a call works along, all of them when it names none."""
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return list(range(x.ndim))
    return [int(d) % max(x.ndim, 1) for d in ([given] if isinstance(given, int) else given)]


def norm(a: Arguments) -> Tensor | None:
    """A vector norm."""
    order = a.get("ord", a.get("p", 2))
    if a["self"].is_complex():
        return None
    x = a["self"].to(a["dtype"]) if a.get("dtype") else a["self"]
    found = length(
        raised(x), 2 if order is None else order, dims_given(x, a.get("dim")), keepdim=bool(a.get("keepdim"))
    )
    return found.to(x.dtype)


def matrix_norm(a: Arguments) -> Tensor | None:
    """The norms of matrices that are sums or extremes of sums, and those of vectors; None for those of spectra."""
    x, dims, order = a["self"], a["dim"], a["ord"]
    dims = None if dims is None else dims_given(x, dims)
    if order == "fro" or order is None or (dims is None and x.ndim == 1) or (dims is not None and len(dims) == 1):
        return norm({**a, "ord": 2 if order in ("fro", None) else order})
    rows, columns = dims or (x.ndim - 2, x.ndim - 1)
    if order not in (1, -1, float("inf"), float("-inf")) or x.is_complex() or (dims is None and x.ndim != 2):
        return None
    x = x.to(a["dtype"]) if a.get("dtype") else x
    summed, left = (rows, columns) if abs(order) == 1 else (columns, rows)
    sums = raised(x).abs().sum(summed, keepdim=True)
    found = sums.amax(left, keepdim=True) if order > 0 else sums.amin(left, keepdim=True)
    return (found if a["keepdim"] else found.squeeze([rows, columns])).to(x.dtype)


def cosine_similarity(a: Arguments) -> Tensor:
    """Three sums in one tensor, so that one collective reduces them."""
    dtype, dim = torch.promote_types(a["x1"].dtype, a["x2"].dtype), a["dim"]
    x, y = (raised(one.to(dtype)) for one in (a["x1"], a["x2"]))
    if x.shape != y.shape:
        x, y = torch.broadcast_tensors(x, y)
    both, first, second = torch.stack([(x * y).sum(dim), (x * x).sum(dim), (y * y).sum(dim)]).unbind(0)
    return (both / (first.sqrt().clamp(min=a["eps"]) * second.sqrt().clamp(min=a["eps"]))).to(dtype)


def pairwise_distance(a: Arguments) -> Tensor:
    """The length of the difference along the last dim."""
    distance = a["x1"] - a["x2"] + a["eps"]
    return length(raised(distance), a["p"], [distance.ndim - 1], keepdim=a["keepdim"]).to(distance.dtype)


def _root(powers: Tensor, order: float) -> Tensor:
    return powers.sqrt() if order == 2 else powers ** (1 / order)


def cdist(a: Arguments) -> Tensor | None:
    """Roots of sums of powers; None for what is a sum itself, or a maximum, and for no features."""
    order = float(a.get("p", 2.0))
    if order in REDUCED_BY or a["x1"].shape[-1] == 0:
        return None
    # The kernel of Euclidean distances alone is the matrix product.
    mode = a["compute_mode"] if "p" in a else 1
    return _root(_own.cdist_powers(raised(a["x1"]), raised(a["x2"]), order, mode), order).to(a["x1"].dtype)


def pdist(a: Arguments) -> Tensor | None:
    """As `cdist`, of every row and every later one."""
    x, order = a["self"], float(a["p"])
    if order in REDUCED_BY or 0 in x.shape:
        return None
    return _root(_own.pdist_powers(raised(x), order), order).to(x.dtype)


def norm_except_dim(a: Arguments) -> Tensor:
    """The length of every slice along a dim; dim -1 stands for one length for all."""
    x = a["v"]
    along = a["dim"] if a["dim"] == -1 else a["dim"] % x.ndim
    dims = [dim for dim in range(x.ndim) if dim != along]
    return length(raised(x), a["pow"], dims, keepdim=along != -1).to(x.dtype)


def cosine_embedding_loss(a: Arguments) -> Tensor:
    """Three sums in one tensor, so that one collective reduces them."""
    x, y, target = raised(a["input1"]), raised(a["input2"]), a["target"]
    both, first, second = torch.stack([(one * other).sum(-1) for one, other in ((x, y), (x, x), (y, y))]).unbind(0)
    cosine = both / ((first + 1e-12) * (second + 1e-12)).sqrt()
    apart = torch.where(target == -1, (cosine - a["margin"]).clamp(min=0), 0)
    return _reduced(torch.where(target == 1, 1 - cosine, apart), a["reduction"]).to(a["input1"].dtype)


def dist(a: Arguments) -> Tensor:
    """The length of the difference."""
    distance = a["self"] - a["other"]
    return length(raised(distance), a["p"], list(range(distance.ndim))).to(distance.dtype)


def renorm(a: Arguments) -> Tensor | None:
    """Slices along a dim, shortened to a length where they are longer."""
    x = a["self"]
    if x.is_complex():
        return None
    dims = [dim for dim in range(x.ndim) if dim != a["dim"] % x.ndim]
    found = length(raised(x), a["p"], dims, keepdim=True)
    return x * torch.where(found > a["maxnorm"], a["maxnorm"] / (found + 1e-7), 1.0).to(x.dtype)


def nanmean(a: Arguments) -> Tensor:
    """The sum of what is a number over how many there are."""
    x, keepdim = a["self"], a["keepdim"]
    dims, dtype = dims_given(x, a["dim"]), a["dtype"] or x.dtype
    total = raised(x.to(dtype)).nansum(dims, keepdim=keepdim)
    return (total / (~x.isnan()).sum(dims, keepdim=keepdim)).to(dtype)


def trace(a: Arguments) -> Tensor:
    """The sum of what lies on the diagonal."""
    x = a["self"]
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return torch.where(rows.unsqueeze(1) == columns, x, 0).sum()


def triplet_margin_loss(a: Arguments) -> Tensor:
    """How far the negative is not farther than the positive by the margin."""

    def between(one: str, other: str) -> Tensor:
        return pairwise_distance({"x1": a[one], "x2": a[other], "p": a["p"], "eps": a["eps"], "keepdim": False})

    near, far = between("anchor", "positive"), between("anchor", "negative")
    if a["swap"]:
        far = torch.minimum(far, between("positive", "negative"))
    return _reduced((a["margin"] + near - far).clamp(min=0), a["reduction"])


def multi_margin_loss(a: Arguments) -> Tensor:
    """How far each class is not below its row's own by the margin."""
    x, target = raised(a["self"]), a["target"]
    axis = x.ndim - 1
    hit = torch.arange(x.shape[axis], device=x.device) == target.unsqueeze(axis)
    own = torch.where(hit, x, 0).sum(axis, keepdim=True)
    over = (a["margin"] - own + x).clamp(min=0)
    over = over * over if a["p"] == 2 else over
    loss = torch.where(hit, 0, over).sum(axis) / x.shape[axis]
    if a["weight"] is not None:
        loss = loss * a["weight"][target]
    return _reduced(loss, a["reduction"]).to(a["self"].dtype)


def _reduced(loss: Tensor, reduction: int) -> Tensor:
    return loss.mean() if reduction == _MEAN else loss.sum() if reduction == _SUM else loss


DISTANCES: dict[str, Any] = {
    "aten::_cdist_forward": cdist,
    "aten::_euclidean_dist": cdist,
    "aten::_pdist_forward": pdist,
    "aten::cdist": cdist,
    "aten::cosine_embedding_loss": cosine_embedding_loss,
    "aten::cosine_similarity": cosine_similarity,
    "aten::dist": dist,
    "aten::linalg_matrix_norm": matrix_norm,
    "aten::linalg_norm": matrix_norm,
    "aten::linalg_vector_norm": norm,
    "aten::multi_margin_loss": multi_margin_loss,
    "aten::nanmean": nanmean,
    "aten::norm": norm,
    "aten::norm_except_dim": norm_except_dim,
    "aten::pairwise_distance": pairwise_distance,
    "aten::pdist": pdist,
    "aten::renorm": renorm,
    "aten::trace": trace,
    "aten::triplet_margin_loss": triplet_margin_loss,
}
