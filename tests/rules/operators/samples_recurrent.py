"""Sample calls for every operator of `shardwright.rules.operators.recurrent`."""

import torch

from tests.support.harness import aten, t


def layers(op, gates, *, states=1):
    """Batch in the middle and first, one layer and two, in both directions, even and uneven."""
    found = []
    for batch, num_layers, both, first in ((4, 1, False, False), (3, 2, False, True), (5, 1, True, True)):
        ways = 2 if both else 1
        weights = []
        for layer in range(num_layers):
            features = 6 if layer == 0 else 8 * ways
            for way in range(ways):
                shapes = ((gates * 8, features), (gates * 8, 8), (gates * 8,), (gates * 8,))
                weights += [0.3 * t(*shape, seed=layer + way + i) for i, shape in enumerate(shapes)]
        x = t(batch, 7, 6) if first else t(7, batch, 6)
        hidden = [t(num_layers * ways, batch, 8, seed=i) for i in range(states)]
        hx = hidden if states > 1 else hidden[0]
        found.append((op, (x, hx, weights, True, num_layers, 0.0, False, both, first), {}))
    return found


def cells(op, gates, *, states=1):
    """With and without a bias, with features that divide and with fewer than ranks."""
    found = []
    for batch, size in ((4, 8), (3, 8), (2, 3)):
        hidden = [t(batch, size, seed=i) for i in range(states)]
        biases = () if batch == 3 else (t(gates * size), t(gates * size, seed=1))
        weights = (t(gates * size, 6), t(gates * size, size))
        found.append((op, (t(batch, 6), hidden if states > 1 else hidden[0], *weights, *biases), {}))
    return found


def gates(op, count):
    """What inputs and the hidden state give to all gates, and a state."""
    return [
        (op, (t(batch, count * size), t(batch, count * size, seed=1), t(batch, size)), {})
        for batch, size in ((4, 8), (3, 5), (2, 3))
    ]


PROJECTED = [t(32, 6), t(32, 5), t(32), t(32, seed=1), t(5, 8)]
"""An LSTM whose output and first state are smaller than the second."""

SAMPLES = {
    "aten::gru.input": layers(aten.gru.input, 3),
    "aten::gru_cell": cells(aten.gru_cell.default, 3),
    "aten::lstm.input": [
        *layers(aten.lstm.input, 4, states=2),
        (aten.lstm.input, (t(7, 4, 6), [t(1, 4, 5), t(1, 4, 8)], PROJECTED, True, 1, 0.0, False, False, False), {}),
    ],
    "aten::lstm_cell": cells(aten.lstm_cell.default, 4, states=2),
    "aten::rnn_relu.input": layers(aten.rnn_relu.input, 1),
    "aten::rnn_relu_cell": cells(aten.rnn_relu_cell.default, 1),
    "aten::rnn_tanh.input": layers(aten.rnn_tanh.input, 1),
    "aten::rnn_tanh_cell": cells(aten.rnn_tanh_cell.default, 1),
    "shardwright::gru_gates": gates(torch.ops.shardwright.gru_gates.default, 3),
    "shardwright::lstm_gates": gates(torch.ops.shardwright.lstm_gates.default, 4),
}
