"""Sample calls for every operator of `shardwright.rules.operators.experts`."""

import torch
import transformers.integrations.moe

from tests.support.harness import aten, t

# Importing it defines its operators.
assert transformers.integrations.moe

ENDS = torch.tensor([2, 5, 5, 8], dtype=torch.int32)
"""Four groups of rows, one of them empty."""
LATE = torch.tensor([0, 0, 1, 3, 7], dtype=torch.int32)
"""Five groups, the first two of them empty."""


def half(*shape):
    return t(*shape).bfloat16()


SAMPLES = {
    "aten::_grouped_mm": [
        (aten._grouped_mm.default, (half(8, 16), half(4, 16, 32), ENDS), {}),
        # Equal chunks of 24 on 2 ranks or more would not start at multiples of 16 bytes.
        (aten._grouped_mm.default, (half(8, 24), half(4, 24, 24), ENDS), {}),
    ],
    "transformers::grouped_mm_fallback": [
        (torch.ops.transformers.grouped_mm_fallback.default, (t(8, 6), t(4, 6, 10), ENDS), {}),
        (torch.ops.transformers.grouped_mm_fallback.default, (t(8, 5), t(4, 5, 7), ENDS), {}),
        (torch.ops.transformers.grouped_mm_fallback.default, (t(7, 5), t(5, 5, 7), LATE), {}),
    ],
    "transformers::grouped_mm_fallback_backward": [
        (torch.ops.transformers.grouped_mm_fallback_backward.default, (t(8, 6), t(4, 6, 10), ENDS, t(8, 10)), {}),
        (torch.ops.transformers.grouped_mm_fallback_backward.default, (t(7, 5), t(5, 5, 7), LATE, t(7, 7)), {}),
    ],
}
