#!/usr/bin/env bash
# Inductor's int8 linear layer takes the wrong scales where they do not lie next to each other.
#
# torch 2.13.0, CPU. F.linear(x, w.to(x.dtype)) * s in bfloat16, with int8 w and one scale a row, becomes one kernel
# (_weight_int8pack_mm). The kernel takes as many numbers as there are rows from where the scales begin, whatever their
# stride: of scales and zero points that are stored as the two columns of one matrix, every second scale is a zero
# point. No error and no warning; the result is wrong. With one scale for all rows there is an error when it is called.
#
# Output seen:
#   scales that lie in a row: right
#   scales in the first of two columns: WRONG
#   one scale: RuntimeError
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
import torch.nn.functional as F

generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 1, 64, generator=generator).bfloat16()
w = torch.randint(-128, 128, (32, 64), dtype=torch.int8, generator=generator)
columns = torch.stack([torch.rand(32, generator=generator) / 100, torch.ones(32)], 1).bfloat16()


def linear(x, w, s):
    return F.linear(x, w.to(x.dtype)) * s


def outcome(s):
    torch._dynamo.reset()
    wanted = linear(x.double(), w, s.double())
    try:
        with torch.no_grad():
            found = torch.compile(linear)(x, w, s)
    except Exception as error:
        return type(error).__name__
    return "right" if (found - wanted).abs().max() < 0.05 * wanted.abs().max() else "WRONG"


seen = {
    "scales that lie in a row": outcome(columns[:, 0].contiguous()),
    "scales in the first of two columns": outcome(columns[:, 0]),
    "one scale": outcome(columns[0, :1]),
}
for name, what in seen.items():
    print(f"{name}: {what}")
sys.exit(list(seen.values()) != ["right", "WRONG", "RuntimeError"])
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
