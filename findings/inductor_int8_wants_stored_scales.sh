#!/usr/bin/env bash
# Inductor does not compile an int8 weight-only linear layer whose scale is cast on the way.
#
# torch 2.13.0, CPU. F.linear(x, w.to(x.dtype)) * s in bfloat16, with int8 w and one scale a row, is the pair of calls
# that Inductor makes one kernel of (_weight_int8pack_mm). With s stored in bfloat16 that works. With s stored in
# float32 and cast beside the layer, as scales of checkpoints often are, the same numbers end in an InductorError
# ("AssertionError: <class 'torch._inductor.ir.Pointwise'>"): the pair is recognised, and its lowering takes the scale
# without giving it memory first. torch.compile and AOTInductor behave alike; for x of two dims, and a scale that is not
# reshaped, both compile; and so does a scale that is cast first and reshaped then.
#
# Output seen:
#   bfloat16 scale: compiles
#   float32 scale: InductorError
#   float32 scale, x of two dims: compiles
#   float32 scale, cast before it is reshaped: compiles
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


class Int8(torch.nn.Module):
    def __init__(self, dtype, shape, cast_first=False):
        super().__init__()
        self.cast_first = cast_first
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randint(-128, 128, (32, 64), dtype=torch.int8, generator=generator))
        self.register_buffer("s", (torch.rand(shape, generator=generator) / 100).to(dtype))

    def forward(self, x):
        s = self.s.to(x.dtype).view(-1) if self.cast_first else self.s.view(-1).to(x.dtype)
        return F.linear(x, self.w.to(x.dtype)) * s


def outcome(module, *sizes):
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            torch.compile(module)(torch.ones(*sizes, dtype=torch.bfloat16))
    except Exception as error:
        return type(error).__name__
    return "compiles"


seen = {
    "bfloat16 scale": outcome(Int8(torch.bfloat16, (32, 1)), 1, 1, 64),
    "float32 scale": outcome(Int8(torch.float32, (32, 1)), 1, 1, 64),
    "float32 scale, x of two dims": outcome(Int8(torch.float32, (32,)), 1, 64),
    "float32 scale, cast before it is reshaped": outcome(Int8(torch.float32, (32, 1), cast_first=True), 1, 1, 64),
}
for name, what in seen.items():
    print(f"{name}: {what}")
sys.exit(list(seen.values()) != ["compiles", "InductorError", "compiles", "compiles"])
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
