#!/usr/bin/env bash
# transformers does not use the `weight_map` of a sharded checkpoint to decide where a tensor is read.
#
# model.safetensors.index.json gives every tensor one file. transformers 5.23.0 takes only the list of files from it,
# puts the tensors of all of them into one mapping, in the order of the file names, and so the last file that has a
# name wins. A copy that an older save left in a later shard replaces the tensor that the index names; a tensor that the
# index does not name at all is loaded too. Nothing is said: no unexpected and no missing keys.
#
# Seen with transformers 5.23.0, safetensors 0.8.0 and torch 2.13.0:
#   norm.weight, first shard by the index: 1.0, loaded: 7.0
#   missing set() unexpected set() mismatched set()
# Exits non-zero where the index decides.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
cat > "$work/stale.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=32,
)
state = {name: tensor.clone() for name, tensor in LlamaForCausalLM(config).state_dict().items()}
name = "model.norm.weight"
files = {"model-00001-of-00002.safetensors": [name], "model-00002-of-00002.safetensors": [n for n in state if n != name]}
index = {n: file for file, names in files.items() for n in names}
config.save_pretrained(folder)
(folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
for file, names in files.items():
    stale = {name: torch.full_like(state[name], 7.0)} if name not in names else {}
    save_file({n: state[n] for n in names} | stale, folder / file, {"format": "pt"})
model, info = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
found = model.model.norm.weight[0].item()
print(f"norm.weight, first shard by the index: {state[name][0].item()}, loaded: {found}")
print("missing", info["missing_keys"], "unexpected", info["unexpected_keys"], "mismatched", info["mismatched_keys"])
sys.exit(0 if found == 7.0 and not info["unexpected_keys"] else 1)
PYTHON
mkdir "$work/model"
"$work/venv/bin/python" "$work/stale.py" "$work/model"
