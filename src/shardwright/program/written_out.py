"""What joint programs are traced as other calls than torch's own, so that more of it can be cut."""

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
}
"""The same for operators that autograd does not see, as torch takes them apart before."""
