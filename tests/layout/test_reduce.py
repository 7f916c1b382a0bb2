"""What reductions make of every rank's share."""

import math

import pytest
import torch

from shardwright.layout.reduce import REDUCTIONS, reduce_shares

SHARES = [torch.tensor([1, -2, 3]), torch.tensor([4, 5, -6]), torch.tensor([-7, 8, 2])]
REDUCED = {"sum": [-2, 11, -1], "max": [4, 8, 3], "min": [-7, -2, -6], "product": [-28, -80, -36]}


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_shares_are_reduced_in_their_own_dtype(op, dtype):
    reduced = reduce_shares([share.to(dtype) for share in SHARES], op)
    assert reduced.dtype == dtype and reduced.tolist() == REDUCED[op]


def test_short_floats_are_rounded_once():
    shares = [torch.tensor(value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    assert reduce_shares(shares, "sum") == 258.0


def test_booleans_are_any_and_all():
    yes, no = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    assert reduce_shares([yes, no], "sum").tolist() == [True, True, False]
    assert reduce_shares([yes, no], "product").tolist() == [True, False, False]


def test_one_share_is_the_value_whatever_the_dtype():
    share = torch.tensor([1.5]).to(torch.float8_e4m3fn)
    assert torch.equal(reduce_shares([share], "sum").float(), share.float())


@pytest.mark.parametrize("op", REDUCTIONS)
def test_neutral_shares_change_nothing(op):
    value = torch.tensor([-2.5, 0.0, 3.0])
    assert torch.equal(reduce_shares([value, torch.full((3,), REDUCTIONS[op].neutral)], op), value)


def test_a_number_that_is_none_on_one_rank_is_none():
    shares = [torch.tensor([math.nan, 1.0]), torch.tensor([2.0, 3.0])]
    assert all(reduce_shares(shares, op).isnan().tolist() == [True, False] for op in REDUCTIONS)
