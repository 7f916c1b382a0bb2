"""Recurrent layers with dropout between them are run one by one: written out by torch, they lose the dropout."""

from typing import Any

import torch
from torch import fx

from shardwright.program.torch_private import OpOverload, schema_of

aten = torch.ops.aten
_CELLS = (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
STACKED = tuple(overload for cell in _CELLS for overload in (cell.input, cell.data))
"""Of sequences of one length, and of packed ones."""


def run_layers_one_by_one(module: fx.GraphModule) -> None:
    """Change the calls of recurrent layers that have dropout between them, in inner graphs as well; in place."""
    for inner in module.modules():
        if not isinstance(inner, fx.GraphModule):
            continue
        for node in inner.graph.nodes:
            if node.target in STACKED and _drops(_named(node.target, node.args, node.kwargs)):
                node.args, node.target = (node.target, *node.args), one_by_one
        inner.recompile()


def one_by_one(op: OpOverload, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    """What ``op`` gives, one of `STACKED`: the outputs of the last layer, then the last states of all layers."""
    given = _named(op, args, kwargs)
    count, is_lstm = given["num_layers"], isinstance(given["hx"], (list, tuple))
    states = [state.chunk(count) for state in (given["hx"] if is_lstm else [given["hx"]])]
    per_layer = len(given["params"]) // count
    sequence, *rest = given
    value, last = given[sequence], []
    for layer in range(count):
        own = [state[layer] for state in states]
        params = given["params"][layer * per_layer : (layer + 1) * per_layer]
        here = {"hx": own if is_lstm else own[0], "params": params, "num_layers": 1, "dropout": 0.0}
        if layer:
            value = torch.dropout(value, given["dropout"], True)
        value, *found = op(value, *({**given, **here}[name] for name in rest))
        last.append(found)
    return value, *(torch.cat(state) for state in zip(*last, strict=True))


def _named(op: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by name, in the order of the schema."""
    return {**dict(zip((one.name for one in schema_of(op).arguments), args, strict=False)), **kwargs}


def _drops(given: dict[str, Any]) -> bool:
    return bool(given["train"] and given["dropout"] and given["num_layers"] > 1)
