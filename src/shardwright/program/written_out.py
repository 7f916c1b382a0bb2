"""What joint programs are traced as other calls than torch's own, so that more of it can be cut."""

import math
from typing import Any

import torch

aten = torch.ops.aten
_MEAN, _SUM = 1, 2


def _mean_of_losses(log_probabilities: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> Any:
    """``nll_loss_forward``, a mean as a sum over the weight of all rows: of either, ranks can have a share each."""
    if reduction != _MEAN or log_probabilities.dtype.itemsize < 4:
        return NotImplemented
    forward = aten.nll_loss2d_forward if log_probabilities.dim() > 2 else aten.nll_loss_forward
    total, count = forward.default(log_probabilities, target, weight, _SUM, ignore_index)
    return total / count, count


def _without_bias(gradient: Any, source: Any, weight: Any, sizes: Any, *how: Any) -> Any:
    """``convolution_backward``, the bias's gradient by a sum: it knows nothing of input channels, of which ranks can
    have a share each.
    """
    *_, (of_source, of_weight, of_bias) = how
    if not of_bias:
        return NotImplemented
    found = (None, None)
    if of_source or of_weight:
        mask = [of_source, of_weight, False]
        found = aten.convolution_backward.default(gradient, source, weight, None, *how[:-1], mask)[:2]
    return (*found, gradient.sum([0, *range(2, gradient.dim())]))


def _mean_of_places(source: Any, size: Any) -> Any:
    """``adaptive_avg_pool`` to one place: of channels that lie last, torch gives a view by addresses in memory."""
    if not all(isinstance(one, int) and one == 1 for one in size):
        return NotImplemented
    return source.mean([-1 - dim for dim in range(len(size))], keepdim=True)


def _windows(source: Any, size: Any, stride: Any, offset: Any = None) -> Any:
    """``as_strided`` that slides along dims which lie side by side, as windows along one: these address no memory."""
    shape, steps = source.shape, source.stride()
    known = all(isinstance(one, int) for one in (*shape, *steps, *size, *stride))
    if not known or offset not in (None, source.storage_offset()):
        return NotImplemented
    wanted, held = list(zip(size, stride, strict=True)), list(zip(shape, steps, strict=True))
    for first in range(len(shape)):
        # The dims from the first to the last become two: the number of windows, and their width.
        last = len(shape) - len(size) + first + 1
        if not first <= last < len(shape) or wanted[:first] + wanted[first + 2 :] != held[:first] + held[last + 1 :]:
            continue
        if any(steps[dim] != steps[dim + 1] * shape[dim + 1] for dim in range(first, last)):
            continue
        (count, far), (width, near) = wanted[first : first + 2]
        step, length = far // max(near, 1), math.prod(shape[first : last + 1])
        if near == steps[last] and far == step * near and step > 0 and (count - 1) * step + width <= length:
            windows = source.flatten(first, last).unfold(first, width, step)
            return windows.narrow(first, 0, count).movedim(-1, first + 1)
    return NotImplemented


TRACED_AS = {
    aten.convolution_backward.default: _without_bias,
    aten.nll_loss2d_forward.default: _mean_of_losses,
    aten.nll_loss_forward.default: _mean_of_losses,
}
"""Operator → what is traced in its place; NotImplemented where it is traced as it is."""

CALLED_AS = {
    aten.adaptive_avg_pool1d.default: _mean_of_places,
    aten.adaptive_avg_pool2d.default: _mean_of_places,
    aten.adaptive_avg_pool3d.default: _mean_of_places,
    aten.as_strided.default: _windows,
}
"""The same for operators that autograd does not see, as torch takes them apart before."""
