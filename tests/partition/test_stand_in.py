"""Sizes are read off a rank's piece, unless it has nothing: two heads on three ranks."""

import operator

import pytest
import torch
from torch import nn
from torch.export import Dim

import shardwright as sw
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Shard
from shardwright.partition.stand_in import tells_sizes

aten = torch.ops.aten
HEADS = sw.Blocks(parts=(16,), unit=8)
PLAN = {"up.weight": sw.Shard(0, HEADS), "up.bias": sw.Shard(0, HEADS), "down.weight": sw.Shard(1, HEADS)}


class Heads(nn.Module):
    """Two heads, apart or one after the other in the batch; ``neg`` marks where the test asks for a size."""

    def __init__(self, is_flat):
        super().__init__()
        self.is_flat, self.up, self.down = is_flat, nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = torch.relu(self.up(x)).view(batch, length, 2, 8).transpose(1, 2)
        heads = torch.neg(heads.reshape(batch * 2, length, 8) if self.is_flat else heads)
        heads = (heads * 3).reshape(batch, 2, length, 8).transpose(1, 2).reshape(batch, length, 16)
        return self.down(heads)


def asks_for_a_size(is_flat):
    """The program, which multiplies the heads with the size of the dim that they lie on instead of with 3."""
    torch.manual_seed(0)
    example = torch.randn(4, 5, 16)
    program = torch.export.export(Heads(is_flat), (example,), dynamic_shapes=({0: Dim.DYNAMIC},))
    (heads,) = program.graph.find_nodes(op="call_function", target=aten.neg.default)
    (product,) = heads.users
    dim = 0 if is_flat else 1
    with program.graph.inserting_before(product):
        size = program.graph.call_function(aten.sym_size.int, (heads, dim))
        size.meta["val"] = heads.meta["val"].shape[dim]
        number = program.graph.call_function(operator.add, (size, 1))
        number.meta["val"] = size.meta["val"] + 1
    product.args = (heads, number)
    program.graph_module.recompile()
    return program


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("is_flat", [False, True])
def test_a_rank_without_a_piece_knows_the_size_of_the_whole(is_flat, num_ranks):
    program = asks_for_a_size(is_flat)
    sharded = sw.shard(program, mesh=num_ranks, plan=PLAN)
    report = sw.verify(sharded, program, (torch.randn(3, 5, 16),))
    assert report.ok, str(report)


def test_pieces_that_tell_the_size_of_the_whole(symbol):
    heads = [(0, 1), (1, 1)]
    assert tells_sizes(REPLICATE)
    assert tells_sizes(Shard(0, Cut.of(3, heads)))  # known, and so is what a rank lacks
    assert tells_sizes(Shard(0, Cut.of(2, heads, repeat=symbol)))
    assert not tells_sizes(Shard(0, Cut.of(3, heads, repeat=symbol)))


@pytest.fixture
def symbol():
    program = asks_for_a_size(True)
    (x,) = [node for node in program.graph.nodes if node.name == "x"]
    return x.meta["val"].shape[0]
