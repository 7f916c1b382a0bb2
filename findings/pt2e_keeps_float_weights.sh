#!/usr/bin/env bash
# convert_pt2e(fold_quantize=True) stores weights as int8, and the program exported from it still holds them as floats.
#
# torch 2.13.0, torchao 0.18.0. Folding puts each quantised weight into a new buffer, `_frozen_param0`, and the graph
# reads that instead of the parameter. The parameter stays on the module. torch.export.export of the converted module
# lifts every parameter, read or not, so the exported program's state dict, and its .pt2 file, hold each weight twice:
# as int8 and as the float32 it was made of. The file is larger than that of the float model, not a quarter of it.
# run_decompositions() does not drop what nothing reads either.
#
# Output seen:
#   float model: 2 weights, 524288 bytes of float32, file 1.0 times that
#   converted, exported: 524288 bytes of float32 that nothing reads, 131072 bytes of int8, file 1.3 times the floats
#   decomposed: 524288 bytes of float32 that nothing reads, 131072 bytes of int8
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import io
import sys

import torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def file_size(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    return len(file.getvalue())


def held(program):
    """Bytes of float matrices that nothing reads, and of int8 ones."""
    unread = {node.name for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    names = [spec.target for spec in program.graph_signature.input_specs if spec.arg.name in unread]
    floats = [program.state_dict[name] for name in names if program.state_dict[name].dtype == torch.float32]
    integers = [tensor for tensor in program.state_dict.values() if tensor.dtype == torch.int8]
    return size(floats), size(integers)


x = torch.randn(4, 256)
model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256)).eval()
weights = [tensor for tensor in model.parameters() if tensor.dim() == 2]
original = torch.export.export(model, (x,))
in_floats = file_size(original) / size(weights)
print(f"float model: {len(weights)} weights, {size(weights)} bytes of float32, file {in_floats:.1f} times that")
quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
prepared = prepare_pt2e(original.module(), quantizer)
prepared(x)
exported = torch.export.export(convert_pt2e(prepared, fold_quantize=True), (x,))
floats, integers = held(exported)
in_file = file_size(exported) / size(weights)
print(
    f"converted, exported: {floats} bytes of float32 that nothing reads, {integers} bytes of int8, "
    f"file {in_file:.1f} times the floats"
)
decomposed = held(exported.run_decompositions())
print(f"decomposed: {decomposed[0]} bytes of float32 that nothing reads, {decomposed[1]} bytes of int8")
wanted = (size(weights), size(weights) // 4)
sys.exit(not ((floats, integers) == decomposed == wanted and in_file > in_floats))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
