"""Recurrent layers: sequences of a batch are apart from each other; a cell's hidden features may be cut too.

All of the hidden state feeds the gates of the next step. A cell takes it whole and gives the features that it was cut
to, so a gather stands between two steps. In an operator that takes whole sequences the steps are inside, and it is cut
by batch alone; it is written out step by step instead (`shardwright.rules.operators.unrolled`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library

from shardwright.layout.cut import Cut
from shardwright.layout.sizes import Size
from shardwright.rules.call import map_values
from shardwright.rules.local import Eager, dense, own_piece
from shardwright.rules.operators.dims import named_dims, put
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
    """``lstm_cell`` and its like: one time step; rows of the weights are the hidden features, once a gate.

    The hidden state is whole, as every gate reads all of it; the cell state is not.
    """
    inputs, hidden, *others = call.operands
    states = others[: _number_of_states(call) - 1]
    weight, recurrent, *biases = others[len(states) :]
    sizes = {"b": inputs.shape[0], "i": weight.shape[1], "k": recurrent.shape[1], "h": hidden.shape[1]}
    rows = Term(("h",) * _GATES[call.schema_name])
    rows = Term(rows.factors, is_sum=len(rows.factors) > 1)
    batch, state = Term(("b",)), (Term(("b",)), Term(("h",)))
    operands = [(batch, Term(("i",))), (batch, Term(("k",))), *(state for _ in states)]
    operands += [(rows, Term(("i",))), (rows, Term(("k",))), *((rows,) for _ in biases)]
    results = (state,) * len(call.results)
    products = (("b", "h", "i"), ("b", "h", "k")) * len(rows.factors)
    return Rule(tuple(operands), results, sizes, frozenset({"i", "k"}), multiplies=products, localize=local_cell)


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


def local_cell(local: Local) -> Any:
    """The cell on this rank's sequences, or its features: the gates are then written out."""
    cut = local.strategy.factor_cut("h")
    return local_batch(local) if cut is None else _STEPS[local.call.schema_name](local, cut)


def _gates(local: Local, name: str, state: Any) -> Any:
    """This rank's rows of all gates, one gate after the other: what comes from the input, or the hidden state."""
    arguments = local.arguments
    return local.run(aten.linear.default, state, arguments[f"w_{name}"], arguments[f"b_{name}"])


def _lstm_step(local: Local, cut: Cut) -> list[Any]:
    hidden, cell = local.arguments["hx"]
    given, known = _gates(local, "ih", local.arguments["input"]), _gates(local, "hh", hidden)
    return _write_lstm_gates(local, given, known, cell)


def _gru_step(local: Local, cut: Cut) -> Any:
    hidden = local.arguments["hx"]
    given, known = _gates(local, "ih", local.arguments["input"]), _gates(local, "hh", hidden)
    return _write_gru_gates(local, given, known, own_piece(local, hidden, 1, cut))


def _plain_step(function: Any) -> Callable[[Local, Cut], Any]:
    def step(local: Local, cut: Cut) -> Any:
        given = _gates(local, "ih", local.arguments["input"])
        known = _gates(local, "hh", local.arguments["hx"])
        return local.run(function, local.run(aten.add.Tensor, given, known))

    return step


def _write_lstm_gates(local: Local, given: Any, known: Any, cell: Any) -> list[Any]:
    total = local.run(aten.add.Tensor, given, known)
    taken, kept, new, shown = local.run(aten.chunk.default, total, 4, 1)
    kept = local.run(aten.mul.Tensor, local.run(aten.sigmoid.default, kept), cell)
    new = local.run(aten.mul.Tensor, local.run(aten.sigmoid.default, taken), local.run(aten.tanh.default, new))
    cell = local.run(aten.add.Tensor, kept, new)
    shown = local.run(aten.sigmoid.default, shown)
    return [local.run(aten.mul.Tensor, shown, local.run(aten.tanh.default, cell)), cell]


def _write_gru_gates(local: Local, given: Any, known: Any, hidden: Any) -> Any:
    ours, theirs = local.run(aten.chunk.default, given, 3, 1), local.run(aten.chunk.default, known, 3, 1)
    reset, update = (
        local.run(aten.sigmoid.default, local.run(aten.add.Tensor, one, other))
        for one, other in zip(ours[:2], theirs[:2], strict=True)
    )
    recalled = local.run(aten.mul.Tensor, reset, theirs[2])
    new = local.run(aten.tanh.default, local.run(aten.add.Tensor, ours[2], recalled))
    return local.run(aten.add.Tensor, new, local.run(aten.mul.Tensor, update, local.run(aten.sub.Tensor, hidden, new)))


def gates_rule(call: Call) -> Rule:
    """``shardwright::lstm_gates`` and its like: features pass, those of all gates together."""
    given, _, state = call.operands
    count = given.shape[1] // state.shape[1]
    rows, batch, features = Term(("h",) * count, is_sum=True), Term(("b",)), Term(("h",))
    sizes = {"b": state.shape[0], "h": state.shape[1]}
    one = (batch, features)
    operands = ((batch, rows), (batch, rows), one)
    results = (one,) * len(call.results)
    return Rule(operands, results, sizes, localize=local_gates, is_written_out=True)


def local_gates(local: Local) -> Any:
    """The gates written out: no program that leaves the compiler calls its own operators."""
    return _GATE_WRITERS[local.call.schema_name](local, *local.arguments.values())


_GATE_WRITERS: dict[str, Callable[..., Any]] = {
    "shardwright::gru_gates": _write_gru_gates,
    "shardwright::lstm_gates": _write_lstm_gates,
}

# Steps of one operator each, so that the solver chooses once for all that happens inside.
library.define("shardwright::gru_gates", "(Tensor given, Tensor known, Tensor hidden) -> Tensor")
library.define("shardwright::lstm_gates", "(Tensor given, Tensor known, Tensor cell) -> (Tensor, Tensor)")


@library.impl("shardwright::gru_gates", "CompositeExplicitAutograd")
def _gru_gates(given: Tensor, known: Tensor, hidden: Tensor) -> Tensor:
    return _write_gru_gates(Eager(), given, known, hidden)  # type: ignore[arg-type]


@library.impl("shardwright::lstm_gates", "CompositeExplicitAutograd")
def _lstm_gates(given: Tensor, known: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    hidden, after = _write_lstm_gates(Eager(), given, known, cell)  # type: ignore[arg-type]
    return hidden, after


# On fake tensors the kernels above would see sizes that are symbols, which torch's own kernels refuse.
@library.register_fake("shardwright::gru_gates")
def _fake_gru_gates(given: Tensor, known: Tensor, hidden: Tensor) -> Tensor:
    return torch.empty_like(hidden)


@library.register_fake("shardwright::lstm_gates")
def _fake_lstm_gates(given: Tensor, known: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(cell), torch.empty_like(cell)


_GATES = {"aten::gru_cell": 3, "aten::lstm_cell": 4, "aten::rnn_relu_cell": 1, "aten::rnn_tanh_cell": 1}

_STEPS: dict[str, Callable[[Local, Cut], Any]] = {
    "aten::gru_cell": _gru_step,
    "aten::lstm_cell": _lstm_step,
    "aten::rnn_relu_cell": _plain_step(aten.relu.default),
    "aten::rnn_tanh_cell": _plain_step(aten.tanh.default),
}

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
    "shardwright::gru_gates": Entry(gates_rule),
    "shardwright::lstm_gates": Entry(gates_rule),
}

_PACKED = "its sequences differ in length, and lie end to end by time step"

UNSUPPORTED: dict[str, str] = {
    "aten::gru.data": _PACKED,
    "aten::lstm.data": _PACKED,
    "aten::rnn_relu.data": _PACKED,
    "aten::rnn_tanh.data": _PACKED,
}
