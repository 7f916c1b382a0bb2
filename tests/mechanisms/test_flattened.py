"""Dims of unknown size laid into one, as models that treat channels or heads as a batch do."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import shardwright as sw


class View(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.project, self.view = nn.Linear(6, 6), view

    def forward(self, x):
        return self.view(torch.tanh(self.project(x)))


VIEWS = {
    "channels": lambda h: h.flatten(0, 1) * 2,
    "channels and back": lambda h: h.flatten(0, 1).unflatten(0, (-1, 3)) + h,
    "tokens": lambda h: h.flatten(1, 2) * 2,
    "heads": lambda h: h.unflatten(-1, (3, 2)).permute(0, 3, 1, 2, 4).flatten(0, 1).softmax(-1),
    "as another, of the same factors": lambda h: h.reshape_as(h.permute(1, 0, 2, 3).flatten(0, 1)) * 2,
    "as another, of no shared factors": lambda h: h.view_as(h.permute(2, 0, 1, 3).flatten(1, 2)) * 2,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_dims_of_unknown_size_are_laid_into_one(view):
    torch.manual_seed(0)
    model = View(view).double()
    dynamic = ({0: Dim("batch", min=1, max=64), 2: Dim("tokens", min=1, max=64)},)
    program = torch.export.export(model, (torch.randn(2, 3, 4, 6).double(),), dynamic_shapes=dynamic)
    for num_ranks, plan in ((2, {"project": "colwise"}), (3, {"project.weight": sw.Shard(1)})):
        sharded = sw.shard(program, mesh=num_ranks, plan=plan)
        for batch, tokens in ((5, 7), (1, 1)):
            report = sw.verify(sharded, program, (torch.randn(batch, 3, tokens, 6).double(),), tolerance=1e-12)
            assert report.ok, str(report)
