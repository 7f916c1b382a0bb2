"""How far what ranks compute may be from the original: the error that is allowed, over the largest value."""

from collections.abc import Sequence
from typing import Any

import torch


def tolerance_of(values: Sequence[Any]) -> float:
    """The error that is allowed of values of these dtypes, over the largest of them."""
    dtypes = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
    if dtypes & {torch.float16, torch.bfloat16}:
        return 3e-2
    return 1e-9 if dtypes == {torch.float64} else 1e-4
