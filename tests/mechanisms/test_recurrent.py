"""Recurrent layers: cut by batch without a word, or by hidden features with one collective a step."""

from collections import Counter

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


class Between(nn.Module):
    """A recurrent layer or cell between two linears."""

    def __init__(self, layer, features, out):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(features, features), layer, nn.Linear(out, features)

    def forward(self, x, *states):
        found = self.layer(self.first(x), *states)
        found = found[0] if isinstance(found, tuple) else found
        return self.last(found)


def cut_by_features(model, args, num_ranks, plan="auto", *, decompose=False):
    """The sharded program, equal to the original, and the share of the weights that the fullest rank holds."""
    exported = torch.export.export(model.double().eval(), args, strict=False)
    exported = exported.run_decompositions() if decompose else exported
    sharded = sw.shard(exported, mesh=num_ranks, plan=plan)
    report = sw.verify(sharded, exported, args)
    assert report.ok, str(report)
    sharded.exported(num_ranks - 1).validate()
    assert not any("shardwright" in str(n.target) for n in sharded.exported(0).graph.nodes)
    return sharded, max(sharded.rank_bytes) / sum(w.num_bytes for w in sharded.weights)


def x64(*shape):
    return torch.randn(shape, dtype=torch.float64)


CELLS = {
    "gru": (nn.GRUCell, x64(2, 32)),
    "lstm": (nn.LSTMCell, (x64(2, 32), x64(2, 32))),
    "rnn": (nn.RNNCell, x64(2, 32)),
}


@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_is_cut_by_its_features(kind, decompose):
    cell, states = CELLS[kind]
    sharded, share = cut_by_features(Between(cell(32, 32), 32, 32), (x64(2, 32), states), 4, decompose=decompose)
    assert sharded.fallbacks == []
    assert share < 0.3
    assert len(sharded.collectives) <= 3
    assert all(c.num_bytes <= 2 * 32 * 4 * 8 for c in sharded.collectives)


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_follows_a_plan_on_features_that_do_not_divide(kind):
    cell, _ = CELLS[kind]
    states = (x64(2, 10), x64(2, 10)) if kind == "lstm" else x64(2, 10)
    plan = {"layer.weight_ih": "colwise", "layer.weight_hh": "colwise"}
    sharded, _ = cut_by_features(Between(cell(10, 10), 10, 10), (x64(2, 10), states), 4, plan)
    assert [c.num_bytes for c in sharded.collectives] == [2 * 10 * 8]
    (weight,) = (w for w in sharded.weights if w.name == "layer.weight_ih")
    gates = weight.shape[0] // 10
    # Features of every gate: 3, 3, 3 and 1.
    assert weight.rank_bytes == tuple(size * gates * 10 * 8 for size in (3, 3, 3, 1))


LAYERS = {
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 16}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "rnn": (nn.RNN, {"bias": False}),
    "two_layers": (nn.GRU, {"num_layers": 2, "batch_first": True}),
    "two_ways": (nn.LSTM, {"bidirectional": True}),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.filterwarnings("ignore:The tensor attributes", "ignore:LSTM with projections")
def test_a_layer_is_written_out_and_cut_with_one_collective_a_step(kind):
    layer, options = LAYERS[kind]
    ways = 2 if options.get("bidirectional") else 1
    runs = ways * options.get("num_layers", 1)
    out = ways * options.get("proj_size", 32)
    sharded, share = cut_by_features(Between(layer(32, 32, **options), 32, out), (x64(3, 2, 32),), 4)
    assert share < 0.3
    assert sharded.fallbacks == []
    # Beside those: into the layer, between directions, out of it.
    assert len(sharded.collectives) <= 3 * runs + 3 * ways
    assert not any(c.node.startswith("p_") for c in sharded.collectives), "no weight is gathered"


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_a_layer_follows_a_plan():
    plan = {"layer.weight_ih_l0": "colwise", "layer.weight_hh_l0": "colwise"}
    sharded, _ = cut_by_features(Between(nn.LSTM(32, 32), 32, 32), (x64(3, 2, 32),), 2, plan)
    assert Counter(c.kind for c in sharded.collectives) == {"all_gather": 2, "all_reduce": 1}
    assert not any(c.node.startswith("p_") for c in sharded.collectives), "no weight is gathered"


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_what_decomposition_makes_of_a_layer_is_cut_too():
    with torch.no_grad():
        sharded, share = cut_by_features(Between(nn.LSTM(32, 32), 32, 32), (x64(3, 2, 32),), 2, decompose=True)
    assert share < 0.6
    assert sharded.fallbacks == []


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_a_long_sequence_keeps_its_weights_whole_and_says_so():
    sharded, share = cut_by_features(Between(nn.GRU(8, 8), 8, 8), (x64(65, 2, 8),), 2)
    assert share > 0.7
    ((op, reason),) = [(f.op, f.reason) for f in sharded.fallbacks]
    assert op == "aten.gru.input"
    assert reason.startswith("its weights are whole: only up to 64 steps")


class Stepped(nn.Module):
    """A cell over a batch of any size, twice, as slot attention and gated residuals call it."""

    def __init__(self, kind):
        super().__init__()
        self.cell, self.out = kind(16, 16), nn.Linear(16, 8)

    def forward(self, x):
        rows = x.flatten(0, 1)
        state = (rows, rows.cos()) if isinstance(self.cell, nn.LSTMCell) else rows
        for _ in range(2):
            state = self.cell(rows, state)
        return self.out(state[0] if isinstance(state, tuple) else state).view_as(x[..., :8])


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_takes_an_open_batch(kind, num_ranks):
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(3))
    model = Stepped(kind).eval()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    sharded = sw.shard(exported, mesh=num_ranks)
    held = {weight.name: max(weight.rank_bytes) / weight.num_bytes for weight in sharded.weights}
    assert held["cell.weight_hh"] == held["cell.weight_ih"] == 1 / num_ranks
    for batch in (3, 2):
        assert sw.verify(sharded, exported, (x[:batch],)).ok
