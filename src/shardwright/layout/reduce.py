"""The reductions that combine what ranks hold."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Reduction:
    """How two shares are combined, and the share that changes nothing (an infinity: the least or most of the dtype)."""

    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    neutral: float


REDUCTIONS = {
    "sum": Reduction(torch.add, 0.0),
    "max": Reduction(torch.maximum, -math.inf),
    "min": Reduction(torch.minimum, math.inf),
    "product": Reduction(torch.mul, 1.0),
}
"""How partial values are combined, by name."""

_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def reduce_shares(shares: Sequence[torch.Tensor], op: str) -> torch.Tensor:
    """The value behind every rank's share, in the dtype of the shares; short floats are rounded once, at the end."""
    dtype = shares[0].dtype
    wide = _WIDE.get(dtype, dtype)
    total = shares[0].to(wide)
    for share in shares[1:]:
        total = REDUCTIONS[op].combine(total, share.to(wide))
    return total.to(dtype)
