"""The slack of the automatic plan is a share of the bytes that can be cut, not of all."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import Decoder, redraw

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Small layers that can be cut, and a large matrix that is inverted, which cannot."""

    def __init__(self, size):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(3))
        self.mix, self.table = nn.Linear(64, size), nn.Parameter(torch.randn(size, size) + 30 * torch.eye(size))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.mix(x) @ torch.linalg.inv(self.table)


@pytest.mark.parametrize("size", [16, 512], ids=["small", "large"])
def test_a_large_weight_that_cannot_be_cut_leaves_no_room_for_small_ones(size):
    exported = torch.export.export(Mixed(size), (torch.randn(2, 8, 64),))
    sharded = sw.shard(exported, mesh=4)
    held = {weight.name: max(weight.rank_bytes) / weight.num_bytes for weight in sharded.weights}
    assert held["table"] == 1
    assert {held[f"layers.{i}.{j}.weight"] for i in range(3) for j in (0, 2)} == {0.25}


class Beside(nn.Module):
    """A model, and a large matrix that is inverted, which cannot be cut."""

    def __init__(self, model, size=768):
        super().__init__()
        self.model, self.table = model, nn.Parameter(torch.randn(size, size) + 30 * torch.eye(size))

    def forward(self, x):
        found = self.model(x)
        found = found[0] if isinstance(found, tuple) else found
        return found + torch.linalg.inv(self.table)[0, 0]


def held_beside(model, x, **options):
    """What of each matrix a rank holds of a model by itself, and beside the matrix; both on as many axes."""
    found = []
    for whole in (model, Beside(model)):
        exported = torch.export.export(whole, (x,))
        sharded = sw.shard(exported, **options)
        assert sw.verify(sharded, exported, (x,)).ok
        matrices = [weight for weight in sharded.weights if len(weight.shape) == 2]
        shares = {w.name.removeprefix("model."): max(w.rank_bytes) / w.num_bytes for w in matrices}
        assert shares.pop("table", 1) == 1
        found.append((len(sharded.mesh.axes), shares))
    return found


@pytest.mark.parametrize("slack", [0.02, 0.3])
def test_an_axis_is_split_in_two_as_it_is_without_the_matrix(slack):
    """Two key-value heads on 8 = 2 x 4 ranks: held by 4 ranks each, where the slack allows that."""
    alone, beside = held_beside(redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64)), IDS, mesh=8, slack=slack)
    assert alone == beside
    assert (alone[0] == 2) == (slack > 0.1)


def test_slack_does_not_grow_with_the_axes():
    mesh = {"dp": 2, "tp": 4}
    plan = dict.fromkeys(mesh, "auto")
    model = redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64))
    alone, beside = held_beside(model, IDS, mesh=mesh, plan=plan, slack=0.05)
    assert alone == beside


# The layer keeps its parameters in a list too, which export takes for tensors that were made on the way.
@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_a_recurrent_layer_is_written_out_as_it_is_without_the_matrix():
    alone, beside = held_beside(nn.LSTM(8, 8, batch_first=True).eval(), torch.randn(2, 3, 8), mesh=4)
    assert alone == beside
    assert set(alone[1].values()) == {0.25}
