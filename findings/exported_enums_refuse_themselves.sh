#!/usr/bin/env bash
# The module() of a program that was exported with a member of a str Enum as an input refuses that very member.
#
# torch 2.13.0. torch.export takes `class Mode(str, enum.Enum)` as a constant input and keeps the value for a guard.
# What the guard compares with is the member's str(), 'Mode.MEAN', written as a string, and Mode.MEAN == 'Mode.MEAN' is
# False (its value is 'mean'). So calling module() with the arguments that the program was exported with raises an
# AssertionError, while the string 'Mode.MEAN', which the model itself would not take for the member, passes the guard.
# With check_guards=False the member is taken. Models of transformers and of speech libraries take such enums.
#
# Output seen:
#   the model takes: [2.0, 2.0]
#   exported, the member: AssertionError: Guard failed: mode == 'Mode.MEAN'
#   exported, the string 'Mode.MEAN': [2.0, 2.0]
#   without guards, the member: [2.0, 2.0]
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import enum
import sys

import torch


class Mode(str, enum.Enum):
    MEAN = "mean"
    SUM = "sum"


class Pool(torch.nn.Module):
    def forward(self, x, mode):
        return x.mean(0) if mode == Mode.MEAN else x.sum(0)


def run(what, model, mode):
    try:
        outcome = model(x, mode).tolist()
        print(f"{what}: {outcome}")
    except AssertionError as error:
        outcome = f"AssertionError: {error}"
        print(f"{what}: {outcome}")
    return outcome


x = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
program = torch.export.export(Pool(), (x, Mode.MEAN))
seen = [
    run("the model takes", Pool(), Mode.MEAN),
    run("exported, the member", program.module(), Mode.MEAN),
    run("exported, the string 'Mode.MEAN'", program.module(), "Mode.MEAN"),
    run("without guards, the member", program.module(check_guards=False), Mode.MEAN),
]
mean = [2.0, 2.0]
sys.exit(seen != [mean, "AssertionError: Guard failed: mode == 'Mode.MEAN'", mean, mean])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
