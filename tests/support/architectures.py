"""Architectures of transformers, tiny and with random weights."""

import pytest
import torch
from torch import nn

from tests.support.models import redraw

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 96,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 8,
    "n_positions": 64,
    "max_position_embeddings": 64,
    "ffn_dim": 128,
    "word_embed_proj_dim": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
"""One recipe for every config class: each takes what it has."""

IDS = torch.randint(3, 96, (2, 8), generator=torch.Generator().manual_seed(5))


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids, use_cache=False).logits


def build(kind, **changes):
    config = transformers.CONFIG_MAPPING[kind]()
    for name, value in {**SMALL, **changes}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return Logits(redraw(model)).eval()
