#!/usr/bin/env bash
# torchao's X86InductorQuantizer quantises nothing on torch 2.11, and says nothing.
#
# torch 2.11.0 with torchao 0.18.0 (on torch 2.12.1 and 2.13.0 the same model is quantised). `prepare_pt2e` and
# `convert_pt2e` give the float model back, without observers and without a warning. The quantiser looks for linear
# layers with torch's `get_source_partitions`, which goes by the module that a node came from; for the graph of
# `torch.export.export`, torch 2.11's finds no `nn.Linear`, though every node's `nn_module_stack` names it.
#
# Output seen:
#   partitions of nn.Linear: 0
#   observers after prepare_pt2e: 0
#   quantize and dequantize after convert_pt2e: 0
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 torchao==0.18.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import sys

import torch
from torch import nn
from torch.fx.passes.utils.source_matcher_utils import get_source_partitions
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
x = torch.randn(4, 8)
module = torch.export.export(model, (x,)).module()
partitions = get_source_partitions(module.graph, [nn.Linear]).get(nn.Linear, [])
prepared = prepare_pt2e(
    module, x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
)
observers = [node for node in prepared.graph.nodes if "observer" in str(node.target) + node.name]
observers += [node for node in prepared.graph.nodes if "activation_post_process" in str(node.target)]
prepared(x)
converted = convert_pt2e(prepared)
quantised = [node for node in converted.graph.nodes if "quantize" in str(node.target)]
print(f"partitions of nn.Linear: {len(partitions)}")
print(f"observers after prepare_pt2e: {len(observers)}")
print(f"quantize and dequantize after convert_pt2e: {len(quantised)}")
sys.exit(bool(partitions or observers or quantised))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
