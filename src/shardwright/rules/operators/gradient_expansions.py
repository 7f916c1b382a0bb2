"""What the gradients of softmaxes are made of, for when the dim they were taken along is cut."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def softmax_backward(a: Mapping[str, Any]) -> Tensor:
    """``_softmax_backward_data``: each entry less what all of its row have in common."""
    gradient, output = a["grad_output"].to(_wide(a)), a["output"].to(_wide(a))
    weighted = gradient * output
    return (weighted - output * weighted.sum(a["dim"], keepdim=True)).to(a["input_dtype"])


def log_softmax_backward(a: Mapping[str, Any]) -> Tensor:
    """``_log_softmax_backward_data``."""
    gradient, output = a["grad_output"].to(_wide(a)), a["output"].to(_wide(a))
    return (gradient - output.exp() * gradient.sum(a["dim"], keepdim=True)).to(a["input_dtype"])


def _wide(a: Mapping[str, Any]) -> Any:
    """The dtype that kernels compute in."""
    return a["output"].dtype if a["output"].dtype.itemsize >= 4 else torch.float32


GRADIENTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "aten::_log_softmax_backward_data": log_softmax_backward,
    "aten::_softmax_backward_data": softmax_backward,
}
