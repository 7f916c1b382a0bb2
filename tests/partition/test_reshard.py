"""Every reshard, even and uneven, blocked and tiled: one collective at most, and the target layout's exact pieces."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.export.graph_signature import InputKind, OutputKind

from shardwright.layout import Blocks, Cut, Partial, Replicate, Shard, join_shards, resolve, take_shard
from shardwright.partition.emit import Emitter
from shardwright.partition.lower import lower
from shardwright.partition.reshard import reshard
from shardwright.program import Input, Output, Program
from shardwright.simulate import Simulation

SHAPE = (6, 5, 8)
WHOLE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).round(decimals=2)


def rank_program(source, target, rank, kind="float"):
    """A program that takes a rank's piece and reshards it."""
    whole = WHOLE if kind == "float" else WHOLE > 0
    mode = FakeTensorMode()
    emit = Emitter(nn.Module(), mode)
    x = emit.graph.placeholder("x")
    shape = take_shard(whole, source, rank).shape
    with mode:
        x.meta["val"] = torch.empty(shape, dtype=whole.dtype)
        fake_whole = torch.empty(SHAPE, dtype=whole.dtype)
    result = reshard(emit, x, source, target, fake_whole, "tp", rank)
    emit.graph.output((result,))
    program = Program(
        source=None,
        graph=emit.graph,
        inputs=(Input("x", InputKind.USER_INPUT, None),),
        outputs=(Output(OutputKind.USER_OUTPUT, None, None),),
        weights={},
        owner=nn.Module(),
    )
    program.__class__ = type("Bare", (Program,), {"fake_mode": mode})
    return lower(program, {"tp": "tp"}), result


def pieces_of(layout, num_ranks, whole=WHOLE):
    if not isinstance(layout, Partial):
        return [take_shard(whole, layout, rank) for rank in range(num_ranks)]
    # Shares that are zero on no rank, so that a missing one shows.
    shares = [torch.full_like(whole, float(rank)) for rank in range(1, num_ranks)]
    return [whole - sum(shares), *shares] if layout.op == "sum" else [whole - rank for rank in range(num_ranks)]


def run(source, target, num_ranks, kind="float"):
    whole = WHOLE if kind == "float" else WHOLE > 0
    programs = [rank_program(source, target, rank, kind)[0] for rank in range(num_ranks)]
    simulation = Simulation(programs, {"tp": [list(range(num_ranks))]})
    found = simulation.run_raw([[piece] for piece in pieces_of(source, num_ranks, whole)])
    return [values[0] for values in found], [num_collectives(program.graph) for program in programs]


def num_collectives(graph):
    names = [str(node.target) for node in graph.nodes]
    return sum("_c10d_functional" in name and "wait" not in name for name in names)


SHARDS = [
    Shard(0),
    Shard(1),
    Shard(2),
    Shard(2, Blocks(parts=(4, 2, 2))),
    Shard(2, Blocks(unit=4)),
    Shard(0, Blocks(parts=(3, 3))),
]


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("target", [Replicate(), *SHARDS], ids=repr)
@pytest.mark.parametrize("source", [Replicate(), Partial(), *SHARDS], ids=repr)
def test_reshard(source, target, num_ranks):
    source, target = (resolve(layout, SHAPE, num_ranks) for layout in (source, target))
    if source == target:
        return  # the two give every rank the same indices, and reshard is never asked for that
    found, counts = run(source, target, num_ranks)
    for rank, piece in enumerate(found):
        torch.testing.assert_close(piece, take_shard(WHOLE, target, rank))
    assert set(counts) == {0 if isinstance(source, Replicate) else 1}


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("other", [Replicate(), Partial(), *SHARDS], ids=repr)
def test_reshard_where_every_rank_holds_a_part(other, num_ranks):
    shared = Shard(2, Cut.join([Cut.whole(1, num_ranks), Cut.even(4, num_ranks), Cut.whole(3, num_ranks)]))
    other = resolve(other, SHAPE, num_ranks)
    pairs = [(other, shared)] if isinstance(other, Partial) else [(other, shared), (shared, other)]
    for source, target in pairs:
        found, counts = run(source, target, num_ranks)
        for rank, piece in enumerate(found):
            torch.testing.assert_close(piece, take_shard(WHOLE, target, rank))
        assert set(counts) == {0 if isinstance(source, Replicate) else 1}


def test_a_maximum_is_reduced_as_one():
    found, counts = run(Partial("max"), Replicate(), 3)
    assert all(torch.equal(piece, WHOLE) for piece in found)
    assert counts == [1, 1, 1]


def test_booleans_are_gathered():
    found, _ = run(resolve(Shard(1), SHAPE, 2), Replicate(), 2, kind="bool")
    assert all(torch.equal(piece, WHOLE > 0) for piece in found)


def test_the_whole_spreads_into_a_sum():
    found, counts = run(Replicate(), Partial(), 3)
    assert torch.equal(join_shards(found, Partial()), WHOLE)
    assert counts == [0, 0, 0]


def test_tiled_cuts_gather_with_one_permutation():
    cut = Cut.even(4, 2).tile(2)
    found, counts = run(Shard(2, cut), Replicate(), 2)
    assert all(torch.equal(piece, WHOLE) for piece in found)
    assert counts == [1, 1]
