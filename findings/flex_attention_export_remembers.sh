#!/usr/bin/env bash
# Exporting flex_attention with fixed shapes makes later exports with a dynamic dim fail, until torch._dynamo.reset().
#
# torch 2.13.0, torch.export.export with its defaults (strict=False, which is said to do without dynamo's tracing).
# flex_attention traces itself through dynamo all the same, and dynamo keeps what it compiled for the process. A module
# that calls it exports with a dynamic batch in a fresh process. After one export of the same module with fixed shapes it
# no longer does: the kept code is used again, its guard fixes the batch, and export says that the *model* specialises
# the dim. Another number of rows as the example fails as well, with another message. torch._dynamo.reset() mends it.
# The order of two independent exports thus decides whether the second one works.
#
# Output seen:
#   dynamic, fresh process: exported
#   fixed shapes: exported
#   dynamic, after it: UserError
#   dynamic, after it, another number of rows: UserError
#   dynamic, after torch._dynamo.reset(): exported
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
from torch.nn.attention.flex_attention import flex_attention


class Attention(torch.nn.Module):
    def forward(self, query, key, value):
        return flex_attention(query, key, value)


def export(what, rows, batch=None):
    args = tuple(torch.randn(rows, 2, 8, 4) for _ in range(3))
    dims = None if batch is None else ({0: batch},) * 3
    try:
        torch.export.export(Attention().eval(), args, dynamic_shapes=dims)
        outcome = "exported"
    except Exception as error:
        outcome = type(error).__name__
    print(f"{what}: {outcome}")
    return outcome


batch = torch.export.Dim("batch")
seen = [
    export("dynamic, fresh process", 4, batch),
    export("fixed shapes", 4),
    export("dynamic, after it", 4, batch),
    export("dynamic, after it, another number of rows", 6, batch),
]
torch._dynamo.reset()
seen.append(export("dynamic, after torch._dynamo.reset()", 4, batch))
sys.exit(seen != ["exported", "exported", "UserError", "UserError", "exported"])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
