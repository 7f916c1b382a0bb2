"""Recurrent layers: sequences of a batch are apart from each other, and everything else is whole.

The hidden state of every time step feeds the gates of the next, so a cut of it would communicate between the steps,
which are inside the operator.
"""

from typing import Any

import torch

from shardwright.layout import Size
from shardwright.rules.call import map_values
from shardwright.rules.dims import named_dims, put
from shardwright.rules.localize import dense
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Dims, Local, Rule, TensorMeta, Term

aten = torch.ops.aten


def layers_rule(call: Call) -> Rule | None:
    """``lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu`` on sequences of one length; random with dropout in training."""
    if call["train"] and call["dropout"]:
        return None
    states = _number_of_states(call)
    batch = [0 if call["batch_first"] else 1, *[1] * states]
    return _batched(call, batch)


def cell_rule(call: Call) -> Rule:
    """``lstm_cell`` and its like: one time step."""
    return _batched(call, [0] * (1 + _number_of_states(call)))


def _number_of_states(call: Call) -> int:
    return len(call["hx"]) if isinstance(call["hx"], (list, tuple)) else 1


def _batched(call: Call, batch: list[int]) -> Rule:
    """A rule that cuts the batch alone: a dim of the input and of every state, in and out. Weights follow."""
    sizes: dict[str, Size] = {"b": call.operands[0].shape[batch[0]]}

    def side(tensor: TensorMeta, prefix: str, dim: int | None) -> Dims:
        dims, own = named_dims(tensor.shape, prefix)
        sizes.update((name, size) for name, size in own.items() if name != f"{prefix}{dim}")
        return dims if dim is None else put(dims, dim, Term(("b",)))

    places = dict(enumerate(batch))
    operands = tuple(side(tensor, f"x{i}d", places.get(i)) for i, tensor in enumerate(call.operands))
    # Layers give their output before the states, cells the states alone.
    results = tuple(None if r is None else side(r, f"r{i}d", batch[i]) for i, r in enumerate(call.results))
    return Rule(operands, results, sizes, frozenset(sizes) - {"b"}, localize=local_batch)


def local_batch(local: Local) -> Any:
    """The layers on this rank's sequences, made dense: some kernels take no other states."""
    changed = {name: map_values(local.arguments[name], lambda value: dense(local, value)) for name in ("input", "hx")}
    return local.run_call(**changed)


_LAYERS, _CELL = Entry(layers_rule), Entry(cell_rule)

RULES: dict[str, Entry] = {
    "aten::gru.input": _LAYERS,
    "aten::gru_cell": _CELL,
    "aten::lstm.input": _LAYERS,
    "aten::lstm_cell": _CELL,
    "aten::rnn_relu.input": _LAYERS,
    "aten::rnn_relu_cell": _CELL,
    "aten::rnn_tanh.input": _LAYERS,
    "aten::rnn_tanh_cell": _CELL,
}

_PACKED = "its sequences differ in length, and lie end to end by time step"

UNSUPPORTED: dict[str, str] = {
    "aten::gru.data": _PACKED,
    "aten::lstm.data": _PACKED,
    "aten::rnn_relu.data": _PACKED,
    "aten::rnn_tanh.data": _PACKED,
}
