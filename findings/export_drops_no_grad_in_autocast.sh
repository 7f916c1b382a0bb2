#!/usr/bin/env bash
# torch.export drops torch.no_grad() inside of torch.autocast: the exported program gives gradients that the model
# does not have.
#
# torch 2.13.0 (2.11.0, 2.12.1 and 2.14.1 too). A part of a forward pass under no_grad is written as a subgraph that
# `wrap_with_set_grad_enabled` calls. To find these parts, export splits the graph at changes of the gradient mode and
# looks whether a part begins with one; within autocast it puts autocast first, takes the part for one without such a
# change, and leaves the change out. No warning. Outside of autocast, and with autocast inside of no_grad, it is kept.
#
# Output seen:
#   the model: gradients of body.weight
#   exported, no_grad within autocast: gradients of body.weight, teacher.weight
#   exported, autocast within no_grad: gradients of body.weight
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


class Within(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.teacher = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x)
            with torch.no_grad():
                scale = self.teacher(x)
            return y * scale


class Around(Within):
    def forward(self, x):
        y = self.body(x)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            scale = self.teacher(x)
        return y * scale


def trained(what, model):
    model(x).float().sum().backward()
    found = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    print(f"{what}: gradients of {', '.join(found)}")
    return found


def exported(model):
    return torch.export.export(model, (x,)).module()


x = torch.randn(5, 6)
seen = [
    trained("the model", Within()),
    trained("exported, no_grad within autocast", exported(Within())),
    trained("exported, autocast within no_grad", exported(Around())),
]
sys.exit(seen != [["body.weight"], ["body.weight", "teacher.weight"], ["body.weight"]])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
