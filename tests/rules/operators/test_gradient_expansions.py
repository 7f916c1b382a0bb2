"""The gradients of softmaxes written out: the kernels' numbers."""

import pytest
import torch

from shardwright.rules.call import bind_arguments
from shardwright.rules.operators.gradient_expansions import GRADIENTS

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", [aten._softmax_backward_data.default, aten._log_softmax_backward_data.default])
def test_written_out_they_give_the_kernels_numbers(op, dtype):
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(4, 6, 5, generator=generator).to(dtype) for _ in range(2))
    forward = torch.softmax if "log" not in str(op) else torch.log_softmax
    for dim in (0, 1, -1):
        args = (gradient, forward(x, dim), dim, dtype)
        wanted, found = op(*args), GRADIENTS[op._schema.name](bind_arguments(op, args, {}))
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted)
