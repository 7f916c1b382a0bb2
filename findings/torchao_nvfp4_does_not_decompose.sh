#!/usr/bin/env bash
# torch cannot decompose an exported program whose weights are torchao's NVFP4.
#
# torch 2.13.0, torchao 0.18.0, CPU. A linear layer quantised by NVFP4WeightOnlyConfig runs, exports, and the exported
# program gives the same numbers. run_decompositions({}) of it ends with a SpecViolationError from torch's own verifier:
# a tensor that it made a constant is not among the constants. Int8WeightOnlyConfig's program is decomposed.
#
# Output seen:
#   int8: exported as it was, decomposed
#   NVFP4: exported as it was, SpecViolationError
#   NVFP4, no scale of the tensor: exported as it was, SpecViolationError
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import torch
from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
from torchao.quantization import Int8WeightOnlyConfig, quantize_

warnings.simplefilter("ignore")
x = torch.randn(2, 64, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))


def outcome(config):
    model = torch.nn.Sequential(torch.nn.Linear(64, 96, bias=False, dtype=torch.bfloat16))
    quantize_(model, config)
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        found = "exported as it was" if torch.equal(exported.module()(x), model(x)) else "exported otherwise"
    try:
        exported.run_decompositions({})
    except Exception as error:
        return f"{found}, {type(error).__name__}"
    return f"{found}, decomposed"


seen = {
    "int8": outcome(Int8WeightOnlyConfig(set_inductor_config=False)),
    "NVFP4": outcome(NVFP4WeightOnlyConfig()),
    "NVFP4, no scale of the tensor": outcome(NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=False)),
}
for name, what in seen.items():
    print(f"{name}: {what}")
wanted = ["decomposed", "SpecViolationError", "SpecViolationError"]
sys.exit(list(seen.values()) != [f"exported as it was, {one}" for one in wanted])
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
