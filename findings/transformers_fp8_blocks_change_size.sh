#!/usr/bin/env bash
# transformers dequantises block-wise FP8 with blocks of another size where 128 does not divide a weight's sizes.
#
# transformers 5.23.0, torch 2.13.0, on a CPU. A checkpoint in the layout of DeepSeek-V3 (quant_method "fp8",
# weight_block_size [128, 128]) holds one scale for each block of 128 x 128; a weight of 192 rows has two rows of blocks,
# of 128 and of 64 rows, and its scales have the shape (2, ...). FineGrainedFP8Config(dequantize=True), which is also what
# loading falls back to without a GPU, does not read the block size: it divides the weight's size by the scales' shape,
# so that 192 rows become two blocks of 96, and rows 96 to 127 get the scale of the second. Nothing is said. Weights
# whose sizes 128 divides are right; where the division leaves a remainder (576 rows, five blocks) it raises ValueError.
#
# Output seen:
#   up_proj (256, 256): largest error 0.000
#   k_proj (192, 256): largest error 0.271, rows 96 to 127 (32) are wrong
#   k_proj with blocks of 96 rows: largest error 0.000
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

folder = Path(sys.argv[1])
torch.manual_seed(0)
config = transformers.LlamaConfig(
    hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=48, vocab_size=64, tie_word_embeddings=False,
)
transformers.LlamaForCausalLM(config).save_pretrained(folder)


def spread(scale, shape, rows):
    """One scale for every number of a weight: blocks of so many rows, and of 128 columns."""
    return scale[torch.arange(shape[0]) // rows][:, torch.arange(shape[1]) // 128]


stored, meant, stretched = {}, {}, {}
for name, weight in load_file(folder / "model.safetensors").items():
    if "_proj" not in name:
        stored[name] = weight
        continue
    weight = weight * torch.linspace(1, 8, weight.shape[0])[:, None]
    grid = [-(-size // 128) for size in weight.shape]
    scale = torch.tensor(
        [[weight[128 * r : 128 * r + 128, 128 * c : 128 * c + 128].abs().max() / 448 for c in range(grid[1])] for r in range(grid[0])]
    )
    numbers = (weight / spread(scale, weight.shape, 128)).to(torch.float8_e4m3fn)
    stored[name], stored[f"{name}_scale_inv"] = numbers, scale
    meant[name] = numbers.float() * spread(scale, weight.shape, 128)
    stretched[name] = numbers.float() * spread(scale, weight.shape, weight.shape[0] // grid[0])
save_file(stored, folder / "model.safetensors", {"format": "pt"})
said = json.loads((folder / "config.json").read_text())
said["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
(folder / "config.json").write_text(json.dumps(said))

loaded = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, quantization_config=transformers.FineGrainedFP8Config(dequantize=True)
).state_dict()


def error(name, wanted):
    """The largest difference, as a share of the largest weight."""
    return float((loaded[name] - wanted).abs().max() / wanted.abs().max())


up, key = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"
wrong = ((loaded[key] - meant[key]).abs() > 1e-3 * meant[key].abs().max()).any(1).nonzero().flatten().tolist()
print(f"up_proj {tuple(loaded[up].shape)}: largest error {error(up, meant[up]):.3f}")
rows = f", rows {wrong[0]} to {wrong[-1]} ({len(wrong)}) are wrong" if wrong else ""
print(f"k_proj {tuple(loaded[key].shape)}: largest error {error(key, meant[key]):.3f}{rows}")
print(f"k_proj with blocks of 96 rows: largest error {error(key, stretched[key]):.3f}")
sys.exit(0 if error(up, meant[up]) < 1e-6 and wrong == list(range(96, 128)) and error(key, stretched[key]) < 1e-6 else 1)
PYTHON
PYTHONWARNINGS=ignore "$folder/venv/bin/python" "$folder/run.py" "$folder/model"
