"""`call_directly`: a module that Python runs call by call takes torch's own bindings of the commonest operators.

An operator of ``torch.ops`` goes through its schema: arguments are put into boxes and taken out again, which costs some
1 to 3 µs a call, as much as a view itself and more. ``torch.mul``, which parses them for this operator alone, gives the
same result of the same arguments. A compiler that takes the module sees the same operators either way.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.nn import functional

aten = torch.ops.aten

_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    aten.add.Tensor: torch.add,
    aten.cat.default: torch.cat,
    aten.clone.default: torch.clone,
    aten.cos.default: torch.cos,
    aten.div.Tensor: torch.div,
    aten.gelu.default: functional.gelu,
    aten.index_select.default: torch.index_select,
    aten.linear.default: functional.linear,
    aten.matmul.default: torch.matmul,
    aten.mean.dim: torch.mean,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.permute.default: torch.permute,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.relu.default: torch.relu,
    aten.reshape.default: torch.reshape,
    aten.rsqrt.default: torch.rsqrt,
    aten.scaled_dot_product_attention.default: functional.scaled_dot_product_attention,
    aten.sigmoid.default: torch.sigmoid,
    aten.sin.default: torch.sin,
    aten.softmax.int: torch.softmax,
    aten.sub.Tensor: torch.sub,
    aten.tanh.default: torch.tanh,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
}
"""Functions that take what their operator takes, by the same names in the same order, and nothing instead of it."""

_METHODS: Mapping[Any, str] = {
    aten.expand.default: "expand",
    aten.index_copy_.default: "index_copy_",
    aten.view.default: "view",
}
"""Methods of the first operand, likewise."""


def call_directly(module: fx.GraphModule) -> int:
    """Exchange such calls of a module, in place; how many there are. Subgraphs stay as they are."""
    num_exchanged = sum(map(_exchange, list(module.graph.nodes)))
    if num_exchanged:
        module.recompile()
    return num_exchanged


def _exchange(node: fx.Node) -> bool:
    if node.op != "call_function" or not node.args or not _is_tensor(node.args[0]):
        return False
    if node.target in _FUNCTIONS:
        node.target = _FUNCTIONS[node.target]
    elif node.target in _METHODS:
        node.op, node.target = "call_method", _METHODS[node.target]
    elif node.target is aten.slice.Tensor:
        return _narrow(node)
    else:
        return False
    return True


def _is_tensor(operand: Any) -> bool:
    """Whether an operand is a tensor, or a list of tensors: bindings tell overloads apart by what they are given."""
    if isinstance(operand, (list, tuple)):
        return bool(operand) and all(map(_is_tensor, operand))
    return isinstance(operand, fx.Node) and isinstance(operand.meta.get("val"), torch.Tensor)


def _narrow(node: fx.Node) -> bool:
    """Exchange a slice of a dim of known length for ``torch.narrow``: there is no binding that slices."""
    given = dict(zip(("self", "dim", "start", "end", "step"), node.args, strict=False)) | node.kwargs
    operand: Any = given["self"]
    dim = given.get("dim", 0)
    length = operand.meta["val"].shape[dim]
    bounds = given.get("start"), given.get("end"), given.get("step", 1)
    if type(length) is not int or any(type(one) is not int for one in bounds if one is not None):
        return False
    start, end, step = slice(*bounds).indices(length)
    if step != 1:
        return False
    node.target, node.args, node.kwargs = torch.narrow, (operand, dim, start, max(end - start, 0)), {}
    return True
