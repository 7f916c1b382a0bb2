"""What an assignment says will be sent is what partition writes, value by value."""

import functools

import pytest
import torch

import shardwright as sw
from shardwright.partition.partition import collectives_of, partition
from shardwright.partition.routes import moves, route
from tests.support.models import MEGATRON, Decoder, Gated, MLPs, redraw

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


@functools.cache
def exported(model, args):
    return torch.export.export(redraw(model), args)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(
    ("model", "args", "plan"),
    [
        (Decoder(kv_heads=8), (IDS,), MEGATRON),
        (Decoder(kv_heads=8), (IDS,), {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}),
        (Decoder(kv_heads=8, parallel=True), (IDS,), "auto"),
        (Decoder(kv_heads=8), (IDS,), {"layers.*.norm1": "sequence_parallel", "layers.*.mlp": "sequence_parallel"}),
        (MLPs(), (torch.randn(2, 12),), {"mlps.0.0": "colwise", "mlps.1.0": "rowwise"}),
        (MLPs(), (torch.randn(2, 12),), "auto"),
        (Gated(width=6), (X,), {"blocks.*.up_proj": "colwise_rep", "blocks.*.down_proj": "rowwise"}),
    ],
)
def test_what_is_said_is_what_is_written(model, args, plan, ranks):
    sharded = sw.shard(exported(model, args), mesh=ranks, plan=plan)
    found = sharded.compiled.axes[0].assignment
    written = collectives_of(partition(found.program, found, "tp", 0))
    assert written
    assert [(one.kind, one.num_bytes) for one in moves(found)] == [(one.kind, one.num_bytes) for one in written]


def test_a_value_passes_by_the_whole_where_no_collective_leads_or_another_reader_wants_it():
    rows, features = (sw.Shard(dim, sw.layout.cut.Cut.even(8, 2)) for dim in (0, 1))
    uneven = sw.Shard(1, sw.layout.cut.Cut.even(7, 2))
    whole = sw.Replicate()
    assert route([rows], rows, by_whole=False) == []
    assert route([rows], features, by_whole=False) == [(rows, features)]
    assert route([rows], features, by_whole=True) == [(rows, whole), (whole, features)]
    assert route([rows], uneven, by_whole=False) == [(rows, whole), (whole, uneven)]
    assert route([rows, whole], uneven, by_whole=False) == [(whole, uneven)]
    assert route([sw.Partial()], features, by_whole=False) == [(sw.Partial(), features)]
