"""Dtypes that collectives do not take as they are, from end to end; and what is known when `shard` returns."""

import re

import pytest
import torch
from torch import nn
from torch.export import Dim

import shardwright as sw
from shardwright.layout.layout import Partial, Shard

LOOKUPS = {
    "index": lambda codes, rows: codes[rows],
    "index_select": lambda codes, rows: codes.index_select(0, rows),
    "embedding": lambda codes, rows: nn.functional.embedding(rows, codes),
}
DTYPES = [torch.bool, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn]
ROWS = torch.tensor([1, 7, 3, 39_999])


class Codes(nn.Module):
    def __init__(self, dtype, size, look_up):
        super().__init__()
        numbers = torch.arange(size * 4).reshape(size, 4) % 100
        self.register_buffer("codes", numbers % 3 == 0 if dtype == torch.bool else numbers.to(dtype))
        self.look_up = look_up

    def forward(self, rows):
        return self.look_up(self.codes, rows)


def sharded(dtype, size, look_up, num_ranks=2):
    rows = ROWS % size
    exported = torch.export.export(Codes(dtype, size, look_up), (rows,))
    result = sw.shard(exported, mesh=num_ranks, plan={"codes": Shard(0)})
    assert sw.verify(result, exported, (rows,)).ok
    return [c.kind for c in result.collectives]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOOKUPS)
def test_what_is_looked_up_adds_up(name, dtype):
    assert sharded(dtype, 40_000, LOOKUPS[name]) == ["all_reduce"]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e8m0fnu], ids=str)
def test_a_small_table_is_gathered(dtype):
    assert sharded(dtype, 9, lambda codes, rows: codes[rows], num_ranks=3) == ["all_gather"]


def test_what_has_no_zero_is_never_summed():
    assert sharded(torch.float8_e8m0fnu, 40_000, LOOKUPS["index"]) == ["all_gather"]


def test_products_of_complex_numbers_are_not_reduced():
    x = torch.randn(4, 6, dtype=torch.complex64)

    class Product(nn.Module):
        def forward(self, x):
            return x.prod(1)

    exported = torch.export.export(Product(), (x,))
    result = sw.shard(exported, mesh=2, plan={}, inputs=Shard(1))
    assert "all_reduce" not in {c.kind for c in result.collectives}
    assert sw.verify(result, exported, (x,)).ok


class Double(nn.Module):
    def forward(self, x):
        return x * 2


def test_what_no_backend_takes_is_said_by_shard():
    exported = torch.export.export(Double(), (torch.randn(4, 6, dtype=torch.complex64),))
    with pytest.raises(sw.ProgramError, match=re.escape("all_reduce (product) of torch.complex64")):
        sw.shard(exported, mesh=2, plan={}, inputs=Partial("product"))


def test_what_only_other_ranks_cannot_be_is_said_by_shard():
    """Seven features on the first axis are four and three, of which the second axis is asked to cut pairs."""
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 4)), (torch.randn(2, 4),))
    plan = {"a": {"0.weight": Shard(0)}, "b": {"0.weight": Shard(0, sw.Blocks(unit=2))}}
    with pytest.raises(sw.PlanError, match=r"plan entry '0.weight'.*of shape \(3, 4\).* at multiples of 2") as raised:
        sw.shard(exported, mesh={"a": 2, "b": 2}, plan=plan)
    assert "what the axes ['a'] left of the program on the ranks at 1 along 'a'" in str(raised.value)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_exchanges_of_sizes_unknown(dim):
    """From one cut to another, the batch, the sequence and the features unknown in turn: one all-to-all."""
    x = torch.randn(4, 8, 6)
    exported = torch.export.export(Double(), (x,), dynamic_shapes=({dim: 2 * Dim("half", min=2, max=32)},))
    shape = [4, 8, 6]
    shape[dim] = 14
    for source, target in [(0, 1), (1, 2), (2, 1)]:
        result = sw.shard(exported, mesh=2, plan={}, inputs=Shard(source), outputs=Shard(target))
        assert [c.kind for c in result.collectives] == ["all_to_all"]
        y = torch.randn(shape)
        for rank, found in enumerate(result.simulate(y)):
            assert torch.equal(found, (y * 2).chunk(2, target)[rank])


class Moved(nn.Module):
    def forward(self, x):
        return x.logical_not() if x.dtype == torch.bool else 2 * x


class Reduced(nn.Module):
    def forward(self, x):
        return x.any(0) if x.dtype == torch.bool else x.sum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool], ids=str)
def test_sizes_unknown_are_gathered_exchanged_and_reduced(dtype):
    """Batch and sequence of unknown size; the last dim, of 7, is cut unevenly."""
    dynamic = ({0: 6 * Dim("batch", min=1, max=8), 1: 6 * Dim("tokens", min=1, max=8)},)
    seen = set()
    for model, source, target in ((Moved(), 0, 1), (Moved(), 2, 0), (Moved(), 1, None), (Reduced(), 0, 0)):
        exported = torch.export.export(model, (torch.zeros(12, 18, 7, dtype=dtype),), dynamic_shapes=dynamic)
        outputs = None if target is None else Shard(target)
        result = sw.shard(exported, mesh=3, plan={}, inputs={"x": Shard(source)}, outputs=outputs)
        seen |= {one.kind.value for one in result.collectives}
        for sizes in ((18, 6), (6, 24)):
            x = torch.randint(-9, 9, (*sizes, 7)).to(dtype)
            assert sw.verify(result, exported, (x,)).ok, (source, target, sizes)
    assert {"all_to_all", "all_gather"} <= seen
