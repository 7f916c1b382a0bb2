"""Regions against the layouts' own cutting and joining."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from shardwright.layout.box import Region, read_region, region_of
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Partial, Shard
from shardwright.layout.pieces import take_shard
from shardwright.package import slices


class Piece:
    """A holder of a piece in memory."""

    def __init__(self, tensor, region):
        self.tensor, self.region = tensor, region

    def copy(self, box, out):
        out.copy_(self.tensor[box])


@st.composite
def cuts_of(draw, size, num_ranks):
    lengths = draw(st.lists(st.integers(0, size), min_size=0, max_size=5))
    bounds = sorted({0, size, *(min(length, size) for length in lengths)})
    runs = [(draw(st.integers(0, num_ranks - 1)), stop - start) for start, stop in itertools.pairwise(bounds)]
    return Cut.of(num_ranks, runs)


@st.composite
def two_cuts(draw):
    """A shape and two layouts in a row, the second of the first's piece."""
    shape = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    first = Shard(0, draw(cuts_of(shape[0], 3)))
    rows = [local for local in range(3) if first.cut.local_size(local)]
    rank = draw(st.sampled_from(rows))
    dim = draw(st.integers(0, 1))
    size = first.cut.local_size(rank) if dim == 0 else shape[1]
    return shape, (first, rank), (Shard(dim, draw(cuts_of(size, 2))), draw(st.integers(0, 1)))


@given(two_cuts())
@settings(max_examples=200, deadline=None)
def test_a_region_is_what_two_cuts_leave(case):
    shape, first, second = case
    whole = torch.arange(shape[0] * shape[1]).reshape(shape)
    wanted = take_shard(take_shard(whole, *first), *second)
    region = region_of(shape, [first, second])
    assert region.shape == tuple(wanted.shape)
    got = read_region(region, [Piece(whole, Region.whole(shape))], whole.dtype)
    assert torch.equal(got, wanted)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_of_one_cut_make_pieces_of_another(data):
    size = data.draw(st.integers(1, 12))
    whole = torch.arange(size * 3).reshape(size, 3)
    old, new = Shard(0, data.draw(cuts_of(size, 4))), Shard(0, data.draw(cuts_of(size, 3)))
    held = [Piece(take_shard(whole, old, rank), region_of(whole.shape, [(old, rank)])) for rank in range(4)]
    for rank in range(3):
        got = read_region(region_of(whole.shape, [(new, rank)]), held, whole.dtype)
        assert torch.equal(got, take_shard(whole, new, rank))


def test_a_part_of_a_sum_is_zeros_but_on_the_first_rank():
    assert region_of((4,), [(Partial(), 1)]) is None
    assert region_of((4,), [(Partial(), 0), (REPLICATE, 1)]) == Region.whole((4,))


def test_a_number_is_a_region_too():
    value = torch.tensor(3.5)
    assert read_region(Region.whole(()), [Piece(value, Region.whole(()))], torch.float64).item() == 3.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_are_cast_as_torch_casts(dtype):
    value = torch.randn(5, 5, dtype=torch.float64)
    assert torch.equal(read_region(Region.whole((5, 5)), [Piece(value, Region.whole((5, 5)))], dtype), value.to(dtype))


def test_slices_are_copied_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "BLOCK_BYTES", 100)
    tensors = {"matrix": torch.randn(37, 9), "row": torch.randn(50), "number": torch.tensor(2.5)}
    save_file(tensors, tmp_path / "w")
    for box in ((slice(3, 30), slice(2, 7)), (slice(0, 37), slice(0, 9)), (slice(5, 5), slice(0, 9))):
        wanted = tensors["matrix"][box]
        out = torch.empty(wanted.shape, dtype=torch.float64)
        slices.copy_slice(tmp_path / "w", "matrix", box, out)
        assert torch.equal(out, wanted.double())
    for name, box in (("row", (slice(1, 50),)), ("number", ())):
        out = torch.empty(tensors[name][box].shape)
        slices.copy_slice(tmp_path / "w", name, box, out)
        assert torch.equal(out, tensors[name][box])
