"""What is read at single places of a cut dim: a row, a diagonal, the ends of an integral, the maximum of a pool.

See `shardwright.rules.operators.expansions`. Where a row lies is compared with where every entry lies, so that each
rank finds what it holds, and what the ranks find adds up.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from shardwright.layout.sizes import same_size
from shardwright.rules.call import symbolic_size
from shardwright.rules.operators.norm_expansions import Arguments, raised

CUT = "cut"
"""The name by which a function is given how the dim is cut that would be gathered; absent where that is not known."""


def is_along(a: Arguments, size: Any) -> bool:
    """Whether the dim that would be gathered, where it is known, is as long as this one."""
    cut = a.get(CUT)
    return cut is None or same_size(cut.size, symbolic_size(size))


def places(x: Tensor, dims: list[int]) -> Tensor:
    """Where every entry lies in ``dims`` read as one dim; broadcasts with ``x``."""

    def along(dim: int) -> Tensor:
        return torch.arange(x.shape[dim], device=x.device).view([-1 if i == dim else 1 for i in range(x.ndim)])

    found, step = along(dims[-1]), x.shape[dims[-1]]
    for dim in reversed(dims[:-1]):
        found, step = found + along(dim) * step, step * x.shape[dim]
    return found


def _only(x: Tensor, hit: Tensor, dim: int) -> Tensor:
    """The one entry along a dim where ``hit`` holds."""
    if x.dtype == torch.bool:
        return torch.where(hit, x, False).to(torch.uint8).amax(dim) != 0
    return torch.where(hit, x, 0).sum(dim, dtype=x.dtype)


def select(a: Arguments) -> Tensor | None:
    """One index of a dim; None for another dim than the one that is cut."""
    x, index = a["self"], a["index"]
    dim = int(a["dim"]) % x.ndim
    if not isinstance(index, int) or not is_along(a, x.shape[dim]):
        return None
    return _only(x, places(x, [dim]) == (index if index >= 0 else index + x.shape[dim]), dim)


def diagonal(a: Arguments) -> Tensor | None:
    """Every row's entry on the diagonal; None for sizes that are not known."""
    x, offset = a["self"], a["offset"]
    first, second = a["dim1"] % x.ndim, a["dim2"] % x.ndim
    rows, columns = x.shape[first], x.shape[second]
    if not isinstance(rows, int) or not isinstance(columns, int):
        return None
    start = max(-offset, 0)
    length = max(min(rows - start, columns - max(offset, 0)), 0)
    found = _only(x, places(x, [second]) - places(x, [first]) == offset, second).movedim(first - (second < first), -1)
    return found if length == rows else found.narrow(-1, min(start, rows), length)


def trapezoid(a: Arguments) -> Tensor | None:
    """A sum with half as much of both ends. None for whole numbers and for fewer than two points."""
    y, points = a["y"], a.get("x")
    dim = int(a["dim"]) % max(y.ndim, 1)
    if not y.is_floating_point() or not isinstance(y.shape[dim], int) or y.shape[dim] < 2:
        return None
    if points is None:
        where = places(y, [dim])
        ends = torch.where((where == 0) | (where == y.shape[dim] - 1), raised(y), 0)
        return ((raised(y).sum(dim) - ends.sum(dim) * 0.5) * a["dx"]).to(y.dtype)
    widths = _widths(points, dim if points.ndim == y.ndim else 0)
    widths = widths if points.ndim == y.ndim else widths.view([-1 if i == dim else 1 for i in range(y.ndim)])
    return (raised(y) * widths).sum(dim).to(y.dtype)


def _widths(x: Tensor, dim: int) -> Tensor:
    """Half the distance between each point's neighbours, an end being its own."""
    x, size = raised(x), x.shape[dim]
    after = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
    return (after - before) / 2


def _over_everything(a: Arguments, count: int) -> list[int] | None:
    """The last ``count`` dims, where one window takes all of them; None for other windows and unknown sizes."""
    x = a["self"]
    dims = list(range(x.ndim - count, x.ndim))

    def spread(name: str, default: int) -> list[int]:
        given = a.get(name, default)
        given = [given] if isinstance(given, int) else list(given)
        return given * count if len(given) == 1 else given

    if not all(isinstance(x.shape[dim], int) and x.shape[dim] for dim in dims):
        return None
    if "output_size" in a:
        return dims if spread("output_size", 1) == [1] * count else None
    is_all = spread("kernel_size", 0) == [x.shape[dim] for dim in dims]
    return dims if is_all and not any(spread("padding", 0)) and set(spread("dilation", 1)) == {1} else None


def average_pool(count: int) -> Callable[[Arguments], Any]:
    """The mean of the last ``count`` dims."""

    def expand(a: Arguments) -> Tensor | None:
        dims = _over_everything(a, count)
        if dims is None or not a["self"].is_floating_point():
            return None
        x = raised(a["self"])
        number = a.get("divisor_override") or prod(x.shape[dim] for dim in dims)
        return (x.sum(dims, keepdim=True) / number).to(a["self"].dtype)

    return expand


def largest_pool(count: int, *, with_places: bool) -> Callable[[Arguments], Any]:
    """The maximum of the last ``count`` dims, and where it lies: the first of equal ones, the last NaN."""

    def expand(a: Arguments) -> Any:
        dims = _over_everything(a, count)
        if dims is None:
            return None
        x = a["self"]
        best = x.amax(dims, keepdim=True)
        if not with_places:
            return best
        where, size = places(x, dims), prod(x.shape[dim] for dim in dims)
        # Before all others, the later the sooner.
        key = torch.where(x == best, where, size)
        key = torch.where(x.isnan(), -1 - where, key) if x.is_floating_point() else key
        least = key.amin(dims, keepdim=True)
        return best, torch.where(least < 0, -1 - least, least)

    return expand


def _pools(count: int) -> dict[str, Any]:
    average, both = average_pool(count), largest_pool(count, with_places=True)
    return {
        f"aten::adaptive_avg_pool{count}d": average,
        f"aten::adaptive_max_pool{count}d": both,
        f"aten::avg_pool{count}d": average,
        f"aten::max_pool{count}d": largest_pool(count, with_places=False),
        f"aten::max_pool{count}d_with_indices": both,
    }


PLACES: dict[str, Any] = {
    **_pools(1),
    **_pools(2),
    **_pools(3),
    "aten::_adaptive_avg_pool2d": average_pool(2),
    "aten::_adaptive_avg_pool3d": average_pool(3),
    "aten::diagonal": diagonal,
    "aten::diagonal_copy": diagonal,
    "aten::select.int": select,
    "aten::select_copy.int": select,
    "aten::trapezoid": trapezoid,
}
