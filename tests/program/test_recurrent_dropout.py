"""Dropout between recurrent layers: what torch's kernels give from the same random numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shardwright as sw
from shardwright.program.recurrent_dropout import STACKED, one_by_one
from tests.support.training import run_alone, run_whole

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning")


def call_of(op, bidirectional, has_biases):
    """Arguments of three layers of 6 units, of 4 inputs."""
    torch.manual_seed(0)
    ways, gates = 1 + bidirectional, {"lstm": 4, "gru": 3}.get(op.name().split("::")[1].split(".")[0], 1)
    params = []
    for layer in range(3):
        for _ in range(ways):
            params += [torch.randn(gates * 6, 4 if layer == 0 else 6 * ways), torch.randn(gates * 6, 6)]
            params += [torch.randn(gates * 6) for _ in range(2 * has_biases)]
    states = [torch.randn(3 * ways, 5, 6) for _ in range(1 + (gates == 4))]
    is_packed = op.name().endswith("data")
    sequence = (torch.randn(12, 4), torch.tensor([5, 4, 3])) if is_packed else (torch.randn(5, 7, 4),)
    batch_first = () if is_packed else (True,)
    hx = states if gates == 4 else states[0]
    return *sequence, hx, params, has_biases, 3, 0.5, True, bidirectional, *batch_first


@pytest.mark.parametrize("op", STACKED, ids=lambda op: op.name())
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("has_biases", [False, True])
def test_one_by_one_is_as_all_at_once(op, bidirectional, has_biases):
    args = call_of(op, bidirectional, has_biases)
    torch.manual_seed(1)
    wanted = op(*args)
    torch.manual_seed(1)
    torch.testing.assert_close(one_by_one(op, *args), wanted)


class Last(nn.Module):
    """The last outputs of two recurrent layers, after those of two that are not trained."""

    def __init__(self, kind, options):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.GRU(4, 4, 2, batch_first=True, dropout=options.get("dropout", 0.0))
        self.trained = kind(4, 6, 2, batch_first=True, **options)

    def forward(self, x):
        with torch.no_grad():
            x = self.frozen(x)[0]
        return self.trained(x)[0][:, -1].sum(-1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"dropout": 0.5}),
        (nn.LSTM, {"dropout": 0.5, "bidirectional": True, "bias": False}),
        (nn.LSTM, {"dropout": 0.5, "proj_size": 3}),
        (nn.GRU, {"dropout": 0.5}),
        (nn.RNN, {"dropout": 0.5}),
    ],
)
def test_recurrent_layers_are_trained(kind, options):
    model, args = Last(kind, options), (torch.randn(5, 3, 4), torch.randn(5))
    was = torch.backends.mkldnn.enabled
    joint = sw.export_training(model, args, loss=F.mse_loss)
    assert torch.backends.mkldnn.enabled == was
    wanted, _ = run_alone(model, args, F.mse_loss)
    found, _ = run_whole(joint, args)
    torch.testing.assert_close(found, wanted)
    sharded = sw.shard(joint, mesh=2, plan={"trained.weight_ih_l0": sw.Shard(0)})
    assert sw.verify(sharded, joint, args).ok
