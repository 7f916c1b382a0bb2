#!/usr/bin/env bash
# GPTQModel loads no model on a machine of one or two cores.
#
# GPTQModel 7.7.0, torch 2.13.0, on a CPU. Its pool of threads takes half the machine's cores, (cores + 1) // 2, as
# workers for the CPU, so one on machines of one and of two cores; of these it sets two aside for loading models, and
# raises where there are fewer. `GPTQModel.load` makes that pool first, so no model is loaded, and so none quantised, not
# even a tiny one. GPTQMODEL_CPU_WORKERS=2 in the environment helps. The variable stands in for the number of cores here,
# so that the script says the same on every machine.
#
# Output seen:
#   workers 1: ValueError: Virtual pool 'model_loader:cpu' requests 2 workers but parent 'cpu' only has 1
#   workers 2: loaded
#   workers that two cores get: 1
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0 \
  torchao==0.18.0 numpy==2.4.6 datasets==5.2.0 protobuf==7.36.2 pillow==13.0.0 jinja2==3.1.6 Device-SMI==0.5.7 \
  LogBar==0.4.15 PyPcre==0.6.4 threadpoolctl==3.8.0 TokeNicer==0.0.14 requests==2.34.2
"$folder/venv/bin/pip" install --quiet --no-deps GPTQModel==7.7.0 Defuser==0.0.28
cat > "$folder/run.py" <<'PYTHON'
import os
import subprocess
import sys
from pathlib import Path

import tokenizers
import transformers

folder = Path(sys.argv[1])
config = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=64,
)
transformers.LlamaForCausalLM(config).save_pretrained(folder)
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "a": 1, "</s>": 2}, unk_token="a"))
transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
load = """
import sys
from gptqmodel import GPTQModel, QuantizeConfig
try:
    GPTQModel.load(sys.argv[1], QuantizeConfig(bits=4, group_size=32, device="cpu"))
    print("SAID loaded")
except Exception as error:
    print("SAID", f"{type(error).__name__}: {error}")
"""
count = """
import os
os.cpu_count = lambda: 2
import gptqmodel
print("SAID", gptqmodel._default_cpu_workers())
"""


def said(text, **environment):
    """What a program of its own says."""
    env = {name: value for name, value in os.environ.items() if name != "GPTQMODEL_CPU_WORKERS"}
    command = [sys.executable, "-c", text, str(folder)]
    ended = subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, cwd=folder)
    lines = [line.removeprefix("SAID ") for line in ended.stdout.splitlines() if line.startswith("SAID ")]
    return lines[0] if lines else ended.stdout[-500:] + ended.stderr[-1500:]


one, two, workers = said(load, GPTQMODEL_CPU_WORKERS="1"), said(load, GPTQMODEL_CPU_WORKERS="2"), said(count)
print(f"workers 1: {one}")
print(f"workers 2: {two}")
print(f"workers that two cores get: {workers}")
sys.exit(0 if "requests 2 workers" in one and two == "loaded" and workers == "1" else 1)
PYTHON
PYTHONWARNINGS=ignore "$folder/venv/bin/python" "$folder/run.py" "$folder/model"
