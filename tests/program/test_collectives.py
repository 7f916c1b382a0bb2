"""Kinds of collectives are an enum that plain strings are equal to."""

import json

import pytest
import torch
from torch import fx

from shardwright.program.collectives import COLLECTIVES, LOWERED, CollectiveKind, kind_of, lowered_name

c10d = torch.ops._c10d_functional


def test_kinds_are_their_names():
    assert json.dumps({"kind": CollectiveKind.ALL_REDUCE}) == '{"kind": "all_reduce"}'
    assert {"all_to_all": 3}[CollectiveKind.ALL_TO_ALL] == 3
    assert f"{CollectiveKind.ALL_GATHER}" == "all_gather" == CollectiveKind.ALL_GATHER


def test_every_kind_has_a_collective_and_an_operator():
    assert [kind_of(one) for one in COLLECTIVES] == list(CollectiveKind)
    assert sorted(LOWERED.values()) == sorted(CollectiveKind)
    assert all(hasattr(c10d, name) for name in LOWERED)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (c10d.all_reduce.default, "all_reduce"),
        (c10d.wait_tensor.default, "wait_tensor"),
        (torch.ops.aten.relu.default, ""),
        (len, ""),
    ],
)
def test_operators_that_collectives_are_lowered_to_are_known_by_name(operator, name):
    assert lowered_name(fx.Graph().call_function(operator)) == name
