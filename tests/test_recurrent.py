"""Recurrent layers: sequences are apart from each other, so the batch is cut and nothing is communicated."""

import pytest
import torch
from torch import nn

import shardwright as sw


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(6, 4, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
# The layer keeps its parameters in a list too, which export takes for tensors that were made on the way.
@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_a_recurrent_layer_is_cut_by_batch(kind, num_ranks):
    x = torch.randn(5, 7, 6)
    exported = torch.export.export(Recurrent(kind).eval(), (x,))
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs={"x": sw.Shard(0)}, outputs=sw.Shard(0))
    assert sharded.fallbacks == []
    assert list(sharded.collectives) == []
    assert sw.verify(sharded, exported, (x,)).ok
