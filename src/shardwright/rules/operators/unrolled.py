"""What recurrent layers are made of: written out step by step, their weights may be cut by hidden features.

An operator that takes whole sequences holds its steps inside, and with them all weights on every rank. Written out,
what the inputs give to the gates of all steps is one matmul a layer, and every step a small one with the state: its
rows cut gate by gate, the new state is gathered once a step. A projected state needs one all-reduce a step instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.traceback import annotate

from shardwright.program.torch_private import has_schema
from shardwright.rules.call import bind_arguments
from shardwright.rules.registry import op_names

gates = torch.ops.shardwright
"""Operators of `shardwright.rules.operators.recurrent`."""

MAX_STEPS = 64
"""Longer sequences are not written out: the program would grow with them, and so would the time to assign it."""

ROUND = "shardwright.round"
"""The note on every operator of a step: which steps are equal, and the number of this one."""

States = tuple[Tensor, ...]
"""The hidden state, and the cell state where there is one."""

CellStep = Callable[[Tensor, Tensor, States], States]
"""From what the inputs and the hidden state give to the gates, and the states before, to the states after."""


def _lstm(given: Tensor, known: Tensor, states: States) -> States:
    return gates.lstm_gates(given, known, states[1])


def _gru(given: Tensor, known: Tensor, states: States) -> States:
    return (gates.gru_gates(given, known, states[0]),)


def _tanh(given: Tensor, known: Tensor, states: States) -> States:
    return ((given + known).tanh(),)


def _relu(given: Tensor, known: Tensor, states: States) -> States:
    return ((given + known).relu(),)


def cell(step: CellStep) -> Callable[[Mapping[str, Any]], Any]:
    """One step: ``lstm_cell`` and its like."""

    def expand(a: Mapping[str, Any]) -> Any:
        states = tuple(a["hx"]) if isinstance(a["hx"], (list, tuple)) else (a["hx"],)
        given = _times(a["input"], a["w_ih"].t(), a["b_ih"])
        after = step(given, _times(states[0], a["w_hh"].t(), a["b_hh"]), states)
        return after if len(after) > 1 else after[0]

    return expand


def layers(step: CellStep) -> Callable[[Mapping[str, Any]], Any]:
    """Whole sequences: ``lstm`` and its like, layer by layer, in one direction or both."""

    def expand(a: Mapping[str, Any]) -> Any:
        states = tuple(a["hx"]) if isinstance(a["hx"], (list, tuple)) else (a["hx"],)
        sequence = a["input"].transpose(0, 1) if a["batch_first"] else a["input"]
        if not _is_short(sequence.shape[0]) or (a["train"] and a["dropout"]):
            return None
        ways = 2 if a["bidirectional"] else 1
        weights = _weights(a["params"], has_biases=a["has_biases"], projects=_projects(states))
        last: list[States] = []
        for layer in range(a["num_layers"]):
            outputs = []
            for way in range(ways):
                number = layer * ways + way
                before = tuple(state.select(0, number) for state in states)
                found, after = _run(step, sequence, before, next(weights), backwards=way == 1, label=number)
                outputs.append(found)
                last.append(after)
            sequence = torch.cat(outputs, -1) if ways > 1 else outputs[0]
        output = sequence.transpose(0, 1) if a["batch_first"] else sequence
        return output, *(torch.stack(list(found)) for found in zip(*last, strict=True))

    return expand


def one_layer(a: Mapping[str, Any]) -> Any:
    """``mkldnn_rnn_layer``, which decomposition makes of every layer and direction of an LSTM on a CPU."""
    is_lstm = a["mode"] == _MKLDNN_LSTM and a["num_layers"] == 1 and not a["bidirectional"] and not a["train"]
    if not is_lstm or a["batch_sizes"] or a["batch_first"] or not _is_short(a["input"].shape[0]):
        return None
    states = a["hx_"].squeeze(0), a["cx_"].squeeze(0)
    weights = [a[f"weight{number}"] for number in range(4 if a["has_biases"] else 2)]
    output, (hidden, state) = _run(_lstm, a["input"], states, weights, backwards=a["reverse"])
    # The last result is room for a gradient.
    shape = a["hx_"].shape
    return output, hidden.reshape(shape), state.reshape(shape), output.new_zeros(0, dtype=torch.uint8)


_MKLDNN_LSTM = 2
"""Its number among the modes of the library."""


def _is_short(num_steps: Any) -> bool:
    return isinstance(num_steps, int) and 0 < num_steps <= MAX_STEPS


def _projects(states: States) -> bool:
    """Whether the hidden state is smaller than the cell state, so that there are weights between the two."""
    return len(states) > 1 and states[0].shape[-1] != states[1].shape[-1]


def _weights(params: Sequence[Tensor], *, has_biases: bool, projects: bool) -> Iterator[Sequence[Tensor | None]]:
    """The weights of every layer and direction: of inputs, of the state, biases of both, of the projection."""
    count = 2 + 2 * has_biases + projects
    for start in range(0, len(params), count):
        own = list(params[start : start + count])
        biases = own[2:4] if has_biases else [None, None]
        yield [*own[:2], *biases, *(own[-1:] if projects else [])]


def _run(
    step: CellStep,
    sequence: Tensor,
    states: States,
    weights: Sequence[Tensor | None],
    *,
    backwards: bool,
    label: int = 0,
) -> tuple[Tensor, States]:
    """All steps of one layer in one direction: the hidden states stacked, and the states after the last step.

    ``label``: distinguishes the steps of one layer and direction from those of another.
    """
    of_input, of_state, input_bias, state_bias, *projection = [*weights, *[None] * (4 - len(weights))]
    assert of_input is not None, "a layer has weights"
    assert of_state is not None, "a layer has weights"
    given = _times(sequence.flatten(0, 1), of_input.t(), input_bias).unflatten(0, sequence.shape[:2]).unbind(0)
    # Once for all steps.
    of_state, projection = of_state.t(), [one.t() for one in projection if one is not None]
    found: list[Tensor] = []
    for number, one in enumerate(reversed(given) if backwards else given):
        with annotate({ROUND: [label, number]}):
            states = step(one, _times(states[0], of_state, state_bias), states)
            if projection:
                states = (states[0] @ projection[0], *states[1:])
            found.append(states[0])
    return torch.stack(found[::-1] if backwards else found), states


def _times(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows @ weight if bias is None else torch.addmm(bias, rows, weight)


RECURRENT: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "aten::gru.input": layers(_gru),
    "aten::gru_cell": cell(_gru),
    "aten::lstm.input": layers(_lstm),
    "aten::lstm_cell": cell(_lstm),
    "aten::mkldnn_rnn_layer": one_layer,
    "aten::rnn_relu.input": layers(_relu),
    "aten::rnn_relu_cell": cell(_relu),
    "aten::rnn_tanh.input": layers(_tanh),
    "aten::rnn_tanh_cell": cell(_tanh),
}

_SEQUENCES = frozenset(name for name in RECURRENT if not name.endswith("_cell"))


def is_sequence(node: fx.Node) -> bool:
    """Whether a node runs a recurrent layer over whole sequences, whose weights are whole with it."""
    return has_schema(node.target) and any(name in _SEQUENCES for name in op_names(node.target))


def can_write_out(node: fx.Node) -> bool:
    """Whether such a node has few enough steps, a number that is known."""
    arguments = bind_arguments(node.target, node.args, node.kwargs)
    return _is_short(arguments["input"].meta["val"].shape[1 if arguments["batch_first"] else 0])
