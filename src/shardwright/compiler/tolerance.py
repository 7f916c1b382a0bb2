"""How far what ranks compute may be from the original: the error that is allowed, over the largest value."""

from collections.abc import Sequence
from typing import Any

import torch

from shardwright.program.nodes import val_of
from shardwright.program.program import Program
from shardwright.program.torch_private import pytree

_OF_16_BITS = 3e-2


def tolerance_of(values: Sequence[Any]) -> float:
    """The error that is allowed of values of these dtypes, over the largest of them."""
    dtypes = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
    if dtypes & {torch.float16, torch.bfloat16}:
        return _OF_16_BITS
    return 1e-9 if dtypes == {torch.float64} else 1e-4


def excusable_in(program: Program, values: Sequence[Any], tolerance: float | None) -> float:
    """The largest error of the outputs ``values`` that rounding may explain: of float32 that is computed in bfloat16 on
    the way, what is allowed of bfloat16. A ``tolerance`` that was asked for is never widened.
    """
    if tolerance is not None:
        return tolerance
    on_the_way = [val_of(node) for node in program.graph.nodes if node.op == "call_function"]
    return max(tolerance_of(values), tolerance_of(pytree.tree_leaves(on_the_way)))


def hint_for(excusable: float) -> str:
    """What to try where a program differs that may be right; '' where precision is no reason."""
    if excusable < _OF_16_BITS:
        return ""
    return (
        "  try: the same model in float32 (model.float(), no autocast): in 16 bits, a value near a threshold (of relu, "
        "of a maximum) may fall on either side of it, and its gradient with it"
    )
