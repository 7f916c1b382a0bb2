"""Operators that address memory see it as the original does, whatever a collective has made of their operand."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.sharding import check

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Windows(nn.Module):
    """Longformer: overlapping windows, as strides of a view of features that are cut."""

    def __init__(self, view, size, stride):
        super().__init__()
        self.up, self.view, self.size, self.stride = nn.Linear(8, 12), view, size, stride

    def forward(self, x):
        return torch.as_strided(self.view(self.up(x)), self.size, self.stride).sin()


VIEWS = {
    "as it is": (lambda x: x, (2, 5, 12, 2), (72, 12, 1, 12)),
    "transposed": (lambda x: x.transpose(1, 2), (2, 12, 5, 2), (72, 1, 12, 12)),
    "a dim of 1": (lambda x: x.transpose(0, 2)[:, :, :, None], (11, 2, 2), (1, 1, 72)),
}


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize(("view", "size", "stride"), VIEWS.values(), ids=VIEWS)
def test_strides_mean_the_same(view, size, stride, num_ranks):
    sharded = check(Windows(view, size, stride), (X,), num_ranks, {"up": "colwise"}, whole=["aten.as_strided.default"])
    assert [c.kind for c in sharded.collectives] == ["all_gather"]


def test_memory_with_gaps_is_refused_by_name():
    model = Windows(lambda x: x[..., ::2], (2, 6, 6), (72, 12, 2))
    program = torch.export.export(model, (X,))
    with pytest.raises(sw.ProgramError, match=r"as_strided.*addresses the memory of a view with gaps"):
        sw.shard(program, mesh=2, plan={"up": "colwise"})
