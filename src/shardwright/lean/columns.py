"""`lay_in_columns`: large weights of projections on a CPU lie column by column where one token is multiplied faster so.

A token reads every weight once, so that memory should be all it waits for. Where a weight lies row by row, kernels take
one dot product a row, and stay behind memory where rows are short; by columns they keep up. Measured with MKL 2024.2 on
Zen 4, one thread, one token, GB/s by rows and by columns: (49152, 576) 10 and 19; (1152, 576) 9 and 15; (3072, 1024) 15
and 21; (4096, 4096) 18 and 22; but (576, 1536) 13 and 10, and bfloat16 8 and 6. So float32 weights with at least as
many outputs as inputs are turned. Many tokens at once take as long either way.
"""

from collections.abc import Sequence

import torch
from torch import fx

from shardwright.lean.large_pages import in_large_pages
from shardwright.program.nodes import held_at

aten = torch.ops.aten

LEAST_BYTES = 1 << 20
"""Smaller weights are left as they are: a cache holds them."""

_OPERAND = {aten.linear.default: 1, aten.embedding.default: 0}
"""Operators that take a weight however it lies, and which operand it is. Embeddings may be tied to projections."""


def lay_in_columns(module: fx.GraphModule) -> int:
    """Turn every such weight of a module, in place; how many there are. Values and shapes stay, strides change.

    A weight that anything else reads is left: views ask how it lies, and what is written to it has to lie alike.
    """
    tied: dict[int, list[torch.Tensor]] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        if tensor.layout == torch.strided:
            tied.setdefault(tensor.data_ptr(), []).append(tensor)
    readers: dict[int, list[fx.Node]] = {}
    for node in module.graph.nodes:
        value = held_at(module, str(node.target)) if node.op == "get_attr" else None
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.data_ptr() in tied:
            readers.setdefault(value.data_ptr(), []).append(node)
    turned = [tied[place] for place, nodes in readers.items() if pays_in_columns(tied[place], nodes)]
    turn(turned)
    return len(turned)


def turn(weights: Sequence[Sequence[torch.Tensor]]) -> None:
    """Let matrices of a CPU lie column by column, each a list of the tensors that are tied; none is written to."""
    across = [tensors[0].detach().t() for tensors in weights]
    rooms = in_large_pages(across)
    for number, (tensors, columns) in enumerate(zip(weights, across, strict=True)):
        lain = columns.contiguous() if rooms is None else rooms[number].copy_(columns)
        for tensor in tensors:
            tensor.data = lain.t()


def pays_in_columns(tensors: Sequence[torch.Tensor], nodes: Sequence[fx.Node]) -> bool:
    """Whether a weight, tied ``tensors``, is better turned where ``nodes`` stand for it in a graph."""
    return _is_meant(tensors) and _are_projected(nodes)


def _is_meant(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether one weight, under all its names, is such that turning it pays."""
    first = tensors[0]
    is_matrix = first.dim() == 2 and first.shape[0] >= first.shape[1] and first.nbytes >= LEAST_BYTES
    is_plain = first.device.type == "cpu" and first.dtype == torch.float32
    return is_matrix and is_plain and all(one.shape == first.shape and one.is_contiguous() for one in tensors)


def _are_projected(nodes: Sequence[fx.Node]) -> bool:
    """Whether nothing but projections and embeddings reads a weight, and at least one projection."""
    read = [(user, node) for node in nodes for user in node.users]
    takes = all(user.target in _OPERAND and user.args[_OPERAND[user.target]] is node for user, node in read)
    return takes and any(user.target is aten.linear.default for user, _ in read)
