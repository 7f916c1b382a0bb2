"""Dynamic sizes of what a user passes are held against what the program was exported for."""

from types import SimpleNamespace

import pytest
import sympy
import torch

import shardwright as sw
from shardwright.program.inputs import _bounds, bind_inputs
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


class Ordered(torch.nn.Module):
    """Sizes in an order that the program asserts: of themselves, and of what is left after a division."""

    def forward(self, x, y):
        torch._check(x.shape[0] <= y.shape[0])
        torch._check(y.shape[0] // 3 < x.shape[0])
        return x.sum() + y.sum()


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((4, 6), ""),
        ((7, 6), r"it must hold that dim 0 of input 'x' <= dim 0 of input 'y'; got dim 0 of input 'x': 7, dim 0 of"),
        ((5, 15), r"it must hold that .*dim 0 of input 'y'.*3.* < dim 0 of input 'x'; got .* 5, .* 15"),
    ],
)
def test_laws_of_sizes(sizes, says):
    dims = {name: torch.export.Dim(name, min=3, max=100) for name in ("a", "b")}
    exported = torch.export.export(
        Ordered(),
        (torch.ones(4), torch.ones(6)),
        dynamic_shapes=({0: dims["a"]}, {0: dims["b"]}),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    given = read(exported), tuple(map(torch.ones, sizes)), {}
    if says:
        with pytest.raises(sw.InputError, match=says):
            bind_inputs(*given)
    else:
        bind_inputs(*given)


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ((sympy.Integer(3), sympy.Integer(10)), (3, 10)),
        ((sympy.Integer(2), sympy.oo), (None, None)),
        ((-sympy.oo, sympy.Integer(10)), (None, 10)),
        ((sympy.Float(2.5), sympy.Float(7.5)), (2.5, 7.5)),
        ((4, sympy.Rational(9, 2)), (4, 4.5)),
    ],
)
def test_ends_of_a_range_are_plain_numbers(ends, found):
    assert _bounds(SimpleNamespace(lower=ends[0], upper=ends[1])) == found
