#!/usr/bin/env bash
# copy.deepcopy of an ExportedProgram gives a program that torch.export.save refuses, if an input is called `input`.
#
# torch 2.13.0. torch.export names placeholders after forward's parameters. Copying the graph makes each node anew, and
# fx numbers names that Python's builtins or keywords have: `input` becomes `input_1`, `max` becomes `max_1`. The graph
# signature, copied beside it, keeps the first names. The copy of an exported nn.Linear, whose one input is `input`,
# therefore calls an input that it does not have: it still runs, but validate() and save() raise SpecViolationError, and
# whatever looks inputs up by the signature's names does not find them. copy.deepcopy(ep.graph) renames in the same way.
# run_decompositions({}) of the copy gives the first names back.
#
# Output seen:
#   original: placeholders ['p_weight', 'p_bias', 'input'], signature ('input',)
#   copy: placeholders ['p_weight', 'p_bias', 'input_1'], signature ('input',)
#   copy runs: (2, 6)
#   copy is saved: SpecViolationError: Input spec name input does not match node name input_1
#   copy, retraced: placeholders ['p_weight', 'p_bias', 'input'], signature ('input',)
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import copy
import io
import sys

import torch


def show(what, program):
    names = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    print(f"{what}: placeholders {names}, signature {program.graph_signature.user_inputs}")
    return names[-1]


original = torch.export.export(torch.nn.Linear(4, 6), (torch.randn(2, 4),))
copied = copy.deepcopy(original)
seen = [show("original", original), show("copy", copied)]
print("copy runs:", tuple(copied.module()(torch.randn(2, 4)).shape))
try:
    torch.export.save(copied, io.BytesIO())
    seen.append("saved")
except Exception as error:
    seen.append(type(error).__name__)
    print(f"copy is saved: {type(error).__name__}: {error}")
seen.append(show("copy, retraced", copied.run_decompositions({})))
sys.exit(seen != ["input", "input_1", "SpecViolationError", "input"])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/run.py"
