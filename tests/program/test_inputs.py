"""Dynamic sizes of what a user passes are held against what the program was exported for."""

import pytest
import torch

import shardwright as sw
from shardwright.program.inputs import bind_inputs
from shardwright.program.read import read


class Two(torch.nn.Module):
    def forward(self, x, y):
        return x.sum(0) + y[: x.shape[0] // 2].sum()


@pytest.fixture(scope="module")
def program():
    n = torch.export.Dim("n", min=3, max=10)
    inputs = (torch.randn(8, 3), torch.randn(4, 2))
    return read(torch.export.export(Two(), inputs, dynamic_shapes=({0: 2 * n}, {0: n})))


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((22, 11), r"dim 0 of input 'y' must be at most 10, got 11"),
        ((4, 2), r"dim 0 of input 'y' must be at least 3, got 2"),
        ((10, 4), r"dim 0 of input 'x' must be 8 to fit dim 0 of input 'y', got 10"),
    ],
)
def test_sizes_that_do_not_fit(program, sizes, says):
    with pytest.raises(sw.InputError, match=says):
        bind_inputs(program, (torch.randn(sizes[0], 3), torch.randn(sizes[1], 2)), {})


def test_sizes_that_fit(program):
    bind_inputs(program, (torch.randn(20, 3), torch.randn(10, 2)), {})


def test_a_multiple_alone():
    n = torch.export.Dim("n", min=3, max=10)
    program = read(
        torch.export.export(Two(), (torch.randn(8, 3), torch.randn(4, 2)), dynamic_shapes=({0: 2 * n}, None))
    )
    bind_inputs(program, (torch.randn(6, 3), torch.randn(4, 2)), {})
    with pytest.raises(sw.InputError, match="dim 0 of input 'x' does not divide as it must, got 7"):
        bind_inputs(program, (torch.randn(7, 3), torch.randn(4, 2)), {})
    with pytest.raises(sw.InputError, match="dim 0 of input 'x' must be at most 4, got 22"):
        bind_inputs(program, (torch.randn(22, 3), torch.randn(4, 2)), {})
