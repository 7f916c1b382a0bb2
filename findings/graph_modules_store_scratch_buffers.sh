#!/usr/bin/env bash
# Tracing makes a model's non-persistent buffers persistent, and so does copying the module of an exported program.
#
# torch 2.13.0. A buffer registered with persistent=False is kept out of checkpoints: rotary angles, masks, tables. A
# GraphModule takes what its graph reads from another module and registers every buffer anew, as a persistent one.
# torch.fx.symbolic_trace(model) therefore has entries in its state_dict that the model has not, and refuses the model's
# own weights under strict=True. The module() of an exported program keeps the buffer out; copy.deepcopy of it (which
# builds a GraphModule in the same way, and drops forward hooks besides) stores it. nn.Module's own deepcopy keeps both.
#
# Output seen:
#   model: table stored False, has hooks True
#   copy of the model: table stored False, has hooks True
#   traced: table stored True, has hooks True
#   exported module: table stored False, has hooks True
#   copy of the exported module: table stored True, has hooks False
#   the model's weights into the traced model: RuntimeError
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import copy
import sys

import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x):
        return self.linear(x) * self.table


def show(what, module):
    found = "table" in module.state_dict(), bool(module._forward_hooks)
    print(f"{what}: table stored {found[0]}, has hooks {found[1]}")
    return found


def with_hook(module):
    module.register_forward_hook(lambda *_: None)
    return module


model = with_hook(Scaled())
traced = with_hook(torch.fx.symbolic_trace(Scaled()))
exported = with_hook(torch.export.export(Scaled(), (torch.ones(2, 4),)).module())
seen = [
    show("model", model),
    show("copy of the model", copy.deepcopy(model)),
    show("traced", traced),
    show("exported module", exported),
    show("copy of the exported module", copy.deepcopy(exported)),
]
try:
    traced.load_state_dict(model.state_dict())
    outcome = "loaded"
except RuntimeError as error:
    outcome = type(error).__name__
print("the model's weights into the traced model:", outcome)
kept = (False, True)
sys.exit(seen != [kept, kept, (True, True), kept, (True, False)] or outcome != "RuntimeError")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
