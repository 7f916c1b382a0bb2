"""What many entries write, or are counted in, where entries are cut: results add up, and nothing is gathered."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.sharding import BYTES_MATTER

EDGES = 130


class Call(nn.Module):
    """One call on what is cut and what is whole."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x, i, whole):
        return self.call(x, i, whole)


X, INDEX = torch.randn(EDGES, 4).double(), torch.randint(0, 6, (EDGES,))
NODES, VALUES, SORTED = torch.randn(6, 4).double(), torch.randn(5).double(), X[:, 0].sort().values
COLUMN = (EDGES, 4)
CALLS = {
    "index_add": (lambda x, i, whole: whole.index_add(0, i, x), (X, INDEX, NODES), ["all_reduce"]),
    "scatter_add": (lambda x, i, w: w.scatter_add(0, i[:, None].expand(*COLUMN), x), (X, INDEX, NODES), ["all_reduce"]),
    "scatter_max": (
        lambda x, i, w: w.scatter_reduce(0, i[:, None].expand(*COLUMN), x, "amax"),
        (X, INDEX, NODES),
        ["all_reduce"],
    ),
    "searchsorted": (lambda x, i, whole: torch.searchsorted(x, whole) + 0 * i.sum(), (SORTED, INDEX, VALUES), None),
    "bucketize": (lambda x, i, whole: torch.bucketize(whole, x) + 0 * i.sum(), (SORTED, INDEX, VALUES), None),
    "isin": (lambda x, i, whole: torch.isin(whole.long(), i) | (x.sum() > 1e9), (X, INDEX, VALUES), None),
}


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", CALLS)
def test_entries_add_up(name, num_ranks):
    call, given, kinds = CALLS[name]
    exported = torch.export.export(Call(call), given)
    inputs = {"x": sw.Shard(0), "i": sw.Shard(0)}
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs=inputs, cost=BYTES_MATTER)
    report = sw.verify(sharded, exported, given, tolerance=1e-9)
    assert report.ok, str(report)
    assert {c.kind for c in sharded.collectives} == {"all_reduce"}
    assert all(c.num_bytes <= 6 * 4 * 8 for c in sharded.collectives)
    assert kinds is None or [c.kind for c in sharded.collectives] == kinds


def test_a_view_of_a_piece():
    """A rank's input is dense: what views it runs."""
    exported = torch.export.export(
        Call(lambda x, i, whole: x.view(4 * EDGES).cos() + whole), (X.clone(), INDEX, X[0, 0])
    )
    sharded = sw.shard(exported, mesh=2, plan={}, inputs={"x": sw.Shard(1)})
    report = sw.verify(sharded, exported, (X, INDEX, X[0, 0]), tolerance=1e-9)
    assert report.ok, str(report)
