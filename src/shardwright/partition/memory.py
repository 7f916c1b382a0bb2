"""How tensors lie in memory: a value made whole by a collective is contiguous; the original may have been a view.

No result depends on that but those of operators that address memory (``as_strided``) or that nothing is known of.
"""

from typing import Any

import torch
from torch import fx

from shardwright.errors import ProgramError
from shardwright.partition.emit import Emitter, is_contiguous
from shardwright.program.nodes import describe_node
from shardwright.program.torch_private import schema_of

aten = torch.ops.aten

ADDRESSING = ("aten::as_strided", "aten::as_strided_copy", "aten::as_strided_scatter")
"""Operators whose results depend on where their operands' elements lie."""


def strides(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Strides to compare: symbolic ones as text, as comparing them would constrain them."""
    return tuple(stride if type(stride) is int else str(stride) for stride in tensor.stride())


def with_strides_of(emit: Emitter, local: fx.Node, whole: torch.Tensor, reader: fx.Node) -> fx.Node:
    """``local``, a whole value, in memory as the original ``whole``: itself, or a copy in that order of dims.

    Raises `ProgramError` where the original is a view with gaps or repeats and ``reader`` addresses its memory.
    """
    if strides(local.meta["val"]) == strides(whole):
        return local
    if is_contiguous(whole):
        return emit.call(aten.clone.default, local, memory_format=torch.contiguous_format)
    order = list(whole.dim_order())
    if is_contiguous(whole.permute(order)):
        moved = emit.call(aten.permute.default, local, order)
        dense = emit.call(aten.clone.default, moved, memory_format=torch.contiguous_format)
        return emit.call(aten.permute.default, dense, [order.index(dim) for dim in range(len(order))])
    schema = schema_of(reader.target)
    if schema is not None and schema.name in ADDRESSING:
        raise ProgramError(
            f"{describe_node(reader)} addresses the memory of a view with gaps, which a sharded program does not have\n"
            "  try: make its operand .contiguous() in the model"
        )
    return local
