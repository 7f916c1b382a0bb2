"""Layouts: cutting and joining are inverse, sizes add up, cuts of products and slices are what they say."""

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardwright.errors import LayoutError
from shardwright.layout.cut import EVERY, Blocks, Cut, describe_cut
from shardwright.layout.layout import Owned, Partial, Replicate, Shard, local_shape, resolve
from shardwright.layout.pieces import join_shards, take_shard

RANKS = st.integers(1, 6)


@st.composite
def blocks(draw):
    """(blocks, size): parts of any sizes that the unit divides."""
    unit = draw(st.integers(1, 4))
    parts = tuple(unit * n for n in draw(st.lists(st.integers(0, 7), min_size=1, max_size=4)))
    return Blocks(parts, unit), sum(parts)


@st.composite
def cuts(draw):
    """Any cut at all: runs of any owners and lengths, some held by every rank."""
    num_ranks = draw(RANKS)
    runs = draw(st.lists(st.tuples(st.integers(EVERY, num_ranks - 1), st.integers(0, 5)), max_size=8))
    return Cut.of(num_ranks, runs)


@given(blocks(), RANKS, st.integers(0, 2))
def test_cut_then_join_is_identity_for_blocks(given_blocks, num_ranks, dim):
    how, size = given_blocks
    shape = [2, 3, 2]
    shape[dim] = size
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape)
    layout = resolve(Shard(dim, how), shape, num_ranks)
    pieces = [take_shard(whole, layout, rank) for rank in range(num_ranks)]
    assert [tuple(p.shape) for p in pieces] == [local_shape(shape, layout, rank) for rank in range(num_ranks)]
    assert torch.equal(join_shards(pieces, layout), whole)


@given(cuts())
def test_cut_then_join_is_identity_for_any_cut(cut):
    whole = torch.arange(cut.size)
    pieces = [take_shard(whole, Shard(0, cut), rank) for rank in range(cut.num_ranks)]
    assert torch.equal(join_shards(pieces, Shard(0, cut)), whole)
    owners = _owners(cut)
    assert cut.local_sizes() == tuple(sum(owner in (rank, EVERY) for owner in owners) for rank in range(cut.num_ranks))
    for rank, piece in enumerate(pieces):
        assert piece.tolist() == [i for start, stop in cut.intervals(rank) for i in range(start, stop)]


@given(cuts(), st.integers(1, 5))
def test_scale_and_tile_are_undone(cut, factor):
    assert cut.scale(factor).unscale(factor) == cut
    assert cut.tile(factor).untile(factor) == cut
    owners = _owners(cut)
    assert _owners(cut.scale(factor)) == [owner for owner in owners for _ in range(factor)]
    assert _owners(cut.tile(factor)) == owners * factor


@given(cuts(), st.data())
def test_slices_join_again(cut, data):
    at = data.draw(st.integers(0, cut.size))
    left, right = cut.slice(0, at), cut.slice(at, cut.size)
    assert _owners(left) + _owners(right) == _owners(cut)
    assert Cut.join([left, right]) == cut


@given(cuts(), st.integers(1, 5), st.data())
def test_slices_of_repeated_cuts_keep_their_owners(cut, repeat, data):
    tiled = cut.tile(repeat)
    start = data.draw(st.integers(0, tiled.size))
    stop = data.draw(st.integers(start, tiled.size))
    owners = _owners(cut) * repeat
    assert tiled.slice(start, stop) == Cut.of(cut.num_ranks, [(owner, 1) for owner in owners[start:stop]])


@given(blocks(), RANKS)
def test_a_description_makes_the_cut_again(given_blocks, num_ranks):
    how, size = given_blocks
    cut = how.cut(size, num_ranks)
    described = describe_cut(cut)
    assert (described if isinstance(described, Cut) else described.cut(size, num_ranks)) == cut


@given(st.integers(0, 40), RANKS)
def test_even_cuts_are_torch_chunks(size, num_ranks):
    pieces = torch.arange(size).chunk(num_ranks)
    wanted = [len(p) for p in pieces] + [0] * (num_ranks - len(pieces))
    assert list(Cut.even(size, num_ranks).local_sizes()) == wanted[:num_ranks] if size else True


def test_what_every_rank_holds_is_no_cut():
    whole = Cut.whole(6, 2)
    assert whole.is_whole and whole.is_even and not whole.is_chunked
    shared = Cut.join([Cut.even(4, 2), Cut.whole(2, 2)])
    assert shared.is_shared and not shared.is_whole
    assert (shared.local_sizes(), shared.largest_fraction) == ((4, 4), 4 / 6)
    assert shared.slice(4, 6).is_whole
    assert Cut.whole(6, 1) == Cut.even(6, 1)


def test_equal_ownership_compares_equal():
    assert Cut.even(32, 4) == Cut.even(32, 4, unit=8) == Cut.even(8, 4).scale(4) == Blocks(unit=4).cut(32, 4)
    assert Cut.even(9, 2) != Cut.even(9, 2, unit=3)


def test_heads_are_cut_whole():
    assert Cut.even(9 * 64, 4, unit=64).local_sizes() == (192, 192, 192, 0)
    assert Blocks(parts=(512, 128, 128), unit=64).cut(768, 2).local_sizes() == (384, 384)


def test_symbolic_repeats_and_sizes():
    batch = sympy.Symbol("b", integer=True, positive=True)
    cut = Cut.even(8, 2).tile(batch)
    assert cut.size == 8 * batch
    assert cut.local_size(1) == 4 * batch
    assert cut.untile(batch) == Cut.even(8, 2)
    even = Cut.even(4 * batch, 4)
    assert even.local_sizes() == (batch,) * 4


def test_partial_sums_split_and_join():
    whole = torch.tensor([1.0, -2.0])
    assert torch.equal(join_shards([take_shard(whole, Partial(), r) for r in range(3)], Partial()), whole)
    assert torch.equal(join_shards([whole, whole + 1], Partial("max")), whole + 1)


@pytest.mark.parametrize(
    ("layout", "shape", "says"),
    [
        (Shard(2), (4, 4), "cuts dim 2 of a tensor with 2 dims"),
        (Shard(0, Blocks(parts=(2, 3))), (4,), "sum to 5"),
        (Shard(0, Blocks(unit=3)), (4,), "multiples of 3"),
        (Shard(0), (sympy.Symbol("s", integer=True),), "symbolic size"),
        (Shard(0, Cut.even(8, 4)), (8,), "does not fit"),
    ],
)
def test_layouts_that_do_not_fit(layout, shape, says):
    with pytest.raises(LayoutError, match=says):
        resolve(layout, shape, 2)


def test_owned_rows_are_no_partial_sum():
    assert Owned(0) != Owned(1) and Owned(0) == Owned(0)
    assert resolve(Owned(0), (4, 2), 2) == Owned(0) and resolve(Owned(0), (4, 2), 1) == Replicate()
    assert local_shape((4, 2), Owned(0), 1) == (4, 2)
    with pytest.raises(LayoutError, match="must be one of sum, max, min, product"):
        Partial("rows of 0 on 2")


def test_repr_can_be_pasted():
    blocked = Shard(1, Blocks(parts=(4, 2), unit=2))
    for layout in (Shard(0), blocked, Replicate(), Partial("max"), Owned(), Owned(2), Shard(0, Cut.even(5, 2))):
        assert eval(repr(layout)) in (layout, Shard(0))


def _owners(cut):
    return [owner for owner, length in cut.flat_runs() for _ in range(length)]


@pytest.mark.parametrize(
    "cut",
    [
        Cut.even(12, 4),
        Cut.even(5, 4),
        Cut.even(12, 5, unit=3),
        Cut.join([Cut.even(8, 3), Cut.whole(4, 3)]),
        Cut.whole(4, 3),
        Cut.even(3, 2).tile(5),
        Cut.even(sympy.Symbol("n") * 4, 4),
        Cut.of(3, []),
    ],
    ids=str,
)
def test_what_all_ranks_hold_is_what_each_holds(cut):
    each = [cut.local_size(rank) for rank in range(cut.num_ranks)]
    assert list(cut.local_sizes()) == each
    assert cut.largest_fraction == max(cut.fraction(rank) for rank in range(cut.num_ranks))
    assert cut.is_even == (len(set(each)) == 1)
