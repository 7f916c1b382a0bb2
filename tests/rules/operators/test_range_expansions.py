"""Scales and zero points of a cut block: the operator's own numbers, found by one small reduction."""

import pytest
import torch

from shardwright.rules.call import bind_arguments, leaves
from shardwright.rules.operators import block_quantized, quantized
from shardwright.rules.operators.range_expansions import RANGES
from shardwright.rules.registry import op_names
from tests.support.harness import samples_module

CALLS = [
    pytest.param(name, op, args, id=f"{name}-{number}")
    for family in (block_quantized, quantized)
    for name, calls in samples_module(family).SAMPLES.items()
    if name in RANGES
    for number, (op, args, _) in enumerate(calls)
]


def test_every_entry_is_tried():
    assert {param.values[0] for param in CALLS} == set(RANGES)
    assert list(RANGES) == sorted(RANGES)


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
@pytest.mark.parametrize(("name", "op", "args"), CALLS)
def test_what_is_written_out_is_what_the_operator_gives(name, op, args, shift):
    assert name in op_names(op)
    args = (args[0] + shift, *args[1:])
    bound = bind_arguments(op, args, {})
    found, wanted = RANGES[name](bound), leaves(op(*args))
    if found is None:
        # Nothing but groups within dims, which come apart as they are.
        assert all(block < size for block, size in zip(bound["block_size"], args[0].shape, strict=True))
        return
    for one, other in zip(leaves(found), wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
