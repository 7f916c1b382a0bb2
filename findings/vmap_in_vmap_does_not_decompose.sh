#!/usr/bin/env bash
# A model with torch.vmap inside torch.vmap is exported, does not decompose, and leaves torch inside the map.
#
# torch 2.13.0. torch.export keeps torch.vmap as calls that begin and end it. A matrix times a vector inside one map is
# refused by the export, of a constant that it could not trace. Inside two maps it is exported, and the constant, which
# nothing needs, stays in the program: a batched tensor of the inner map, which exists nowhere else.
# run_decompositions() raises AttributeError on it, whatever the table. And the count of maps that torch is in is not
# taken back: from then on every random number in this thread is refused, in code that maps nothing.
#
# Output seen:
#   one map: RuntimeError: We found a fake tensor in the exported program constant's list
#   two maps: constants 1, decomposing raises AttributeError: 'Tensor' object has no attribute 'constant'
#   a random number afterwards: RuntimeError: vmap: called random operation while in randomness error mode
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


class Maps(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.times, self.weight = times, nn.Parameter(torch.ones(3, 4))

    def forward(self, x):
        run = lambda one: self.weight @ one
        for _ in range(self.times):
            run = torch.vmap(run)
        return run(x)


def first(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


raised = said = refused = "nothing"
try:
    torch.export.export(Maps(1), (torch.ones(2, 4),))
except RuntimeError as error:
    refused = first(error).partition(".")[0]
print("one map:", refused)
two = torch.export.export(Maps(2), (torch.ones(5, 2, 4),))
try:
    two.run_decompositions({})
except Exception as error:
    raised = first(error)
print(f"two maps: constants {len(two.constants)}, decomposing raises {raised}")
try:
    torch.randn(2)
except RuntimeError as error:
    said = first(error).partition(".")[0]
print("a random number afterwards:", said)
seen = "fake tensor" in refused, len(two.constants) == 1, raised.startswith("AttributeError"), "random operation" in said
sys.exit(not all(seen))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
