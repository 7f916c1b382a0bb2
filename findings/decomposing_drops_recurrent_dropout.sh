#!/usr/bin/env bash
# run_decompositions() of an exported LSTM, GRU or RNN in training mode drops the dropout between its layers.
#
# torch 2.13.0. A program exported from nn.LSTM(..., num_layers=2, dropout=0.9).train() keeps one aten.lstm call whose
# arguments say train=True and dropout=0.9, and it draws another mask at every call, as the module does. The default
# decompositions write that call out layer by layer, without any operator that draws: the decomposed program gives the
# numbers of a network without dropout, at every call the same. No warning is raised. nn.GRU and nn.RNN behave alike.
# What decomposes programs on the way to somewhere else (compilers, joint graphs for training) trains another network.
#
# Output seen ("draws": two calls from different seeds differ):
#   LSTM: module draws True, exported draws True, decomposed draws False, operators that draw []
#   GRU: module draws True, exported draws True, decomposed draws False, operators that draw []
#   RNN: module draws True, exported draws True, decomposed draws False, operators that draw []
#   LSTM decomposed equals the module with dropout=0: True
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import sys

import torch
from torch import nn

x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


def draws(call):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(call(x)[0])
    return not torch.equal(*found)


seen = []
for kind in (nn.LSTM, nn.GRU, nn.RNN):
    model = kind(4, 8, num_layers=2, dropout=0.9).train()
    program = torch.export.export(model, (x,))
    decomposed = program.run_decompositions()
    drawing = [
        str(node.target)
        for node in decomposed.graph.nodes
        if any(word in str(node.target) for word in ("dropout", "bernoulli", "rand"))
    ]
    seen.append((draws(model), draws(program.module()), draws(decomposed.module()), drawing))
    print(
        f"{kind.__name__}: module draws {seen[-1][0]}, exported draws {seen[-1][1]}, "
        f"decomposed draws {seen[-1][2]}, operators that draw {drawing}"
    )
    if kind is nn.LSTM:
        model.dropout = 0.0
        without = torch.allclose(decomposed.module()(x)[0], model(x)[0], atol=1e-6)
        model.dropout = 0.9
        seen.append(without)
lstm_without = seen.pop(1)
print("LSTM decomposed equals the module with dropout=0:", lstm_without)
sys.exit(seen != [(True, True, False, [])] * 3 or not lstm_without)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
