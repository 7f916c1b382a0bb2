"""Tiny GGUF files, as llama.cpp writes them: matrices quantised to 8 bits, or blocks of any kind at random."""

import math
import re

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES

WIDTH, HEADS, KV_HEADS, HIDDEN, VOCAB = 64, 4, 2, 96, 64

SIZES = {"width": WIDTH, "heads": HEADS, "kv_heads": KV_HEADS, "head_size": WIDTH // HEADS, "hidden": HIDDEN}

SCALES = {
    "MXFP4": (),
    "Q2_K": (80, (82, 1.5)),
    "Q3_K": (108,),
    "Q4_0": (0,),
    "Q4_1": (0, (2, -7.5)),
    "Q4_K": (0, (2, 7.5)),
    "Q5_0": (0,),
    "Q5_1": (0, (2, -15.5)),
    "Q5_K": (0, (2, 15.5)),
    "Q6_K": (208,),
    "Q8_0": (0,),
    "TQ2_0": (64,),
}
"""Where a block has the float16 that scales its numbers, then where that of their offset, how many times as large."""


def random_blocks(shape, kind, seed=0):
    """Bytes (…, rows, bytes of a row) at random that stand for numbers of a size that keeps results near one."""
    size, num_bytes = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (*shape[:-1], shape[-1] // size, num_bytes), dtype=np.uint8)
    if kind == "MXFP4":
        blocks[..., 0] = 122 - round(math.log2(shape[-1]) / 2) + draw.integers(0, 3, blocks.shape[:-1])

    def scale_by(scales):
        for place in SCALES[kind]:
            start, times = place if isinstance(place, tuple) else (place, 1)
            halves = (scales * times).astype("<f2").view(np.uint8)
            blocks[..., start : start + 2] = halves.reshape(*blocks.shape[:-1], 2)

    scale_by(np.ones(blocks.shape[:-1]))
    spread = numbers_of(blocks.reshape(*shape[:-1], -1), kind).std()
    if SCALES[kind]:
        scale_by(draw.uniform(0.5, 1.5, blocks.shape[:-1]) / spread / math.sqrt(shape[-1]))
    return blocks.reshape(*shape[:-1], -1)


def numbers_of(data, kind):
    """What gguf makes of such bytes."""
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])


def llama_shapes(*, layers=2, **sizes):
    """The shapes of a Llama's tensors, by GGUF name."""
    width, heads, kv_heads, size, hidden = {**SIZES, **sizes}.values()
    shapes = {"token_embd.weight": (VOCAB, width), "output_norm.weight": (width,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.ffn_norm.weight": (width,),
            f"blk.{layer}.attn_q.weight": (heads * size, width),
            f"blk.{layer}.attn_k.weight": (kv_heads * size, width),
            f"blk.{layer}.attn_v.weight": (kv_heads * size, width),
            f"blk.{layer}.attn_output.weight": (width, heads * size),
            f"blk.{layer}.ffn_gate.weight": (hidden, width),
            f"blk.{layer}.ffn_up.weight": (hidden, width),
            f"blk.{layer}.ffn_down.weight": (width, hidden),
        }
    return shapes


def write_file(
    path,
    shapes,
    architecture="llama",
    *,
    values=None,
    kind=None,
    pack=None,
    layers=2,
    describe=lambda writer: None,
    **sizes,
):
    """A GGUF file of tensors at random (or ``values`` by name), matrices quantised to 8 bits or blocks of ``kind``.

    ``pack(numbers, kind)`` gives the bytes of these; absent: they are at random.
    """
    width, heads, kv_heads, size, hidden = {**SIZES, **sizes}.values()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size)
    writer.add_vocab_size(VOCAB)
    tokens = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(VOCAB - 4)), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    describe(writer)
    generator = torch.Generator().manual_seed(0)
    eight_bits = gguf.GGMLQuantizationType.Q8_0
    for seed, (name, shape) in enumerate(shapes.items()):
        numbers = (values or {}).get(name, torch.randn(*shape, generator=generator)).numpy()
        if len(shape) == 1:
            writer.add_tensor(name, numbers)
        elif kind is None:
            writer.add_tensor(name, gguf.quants.quantize(numbers, eight_bits), raw_dtype=eight_bits)
        else:
            data = random_blocks(shape, kind, seed) if pack is None else pack(numbers, kind)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gpt2_shapes(layers=2):
    """The shapes of a GPT-2 with a head of its own."""
    shapes = {
        "token_embd.weight": (VOCAB, WIDTH),
        "position_embd.weight": (1024, WIDTH),
        "output.weight": (VOCAB, WIDTH),
    }
    shapes |= dict.fromkeys(("output_norm.weight", "output_norm.bias"), (WIDTH,))
    wide = {"attn_qkv": 3 * WIDTH, "attn_output": WIDTH, "ffn_up": 4 * WIDTH, "ffn_down": WIDTH}
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            shapes |= dict.fromkeys((f"blk.{layer}.{norm}.weight", f"blk.{layer}.{norm}.bias"), (WIDTH,))
        for name, size in wide.items():
            shapes[f"blk.{layer}.{name}.weight"] = (size, 4 * WIDTH if name == "ffn_down" else WIDTH)
            shapes[f"blk.{layer}.{name}.bias"] = (size,)
    return shapes


def experts(inner=768, up=768, layers=2):
    """The shapes of layers of experts; ``inner`` is what transformers takes for granted."""
    shapes = llama_shapes(layers=layers)
    for layer in range(layers):
        shapes = {
            name: shape for name, shape in shapes.items() if not re.match(rf"blk.{layer}.ffn_(gate|up|down)", name)
        }
        shapes |= {
            f"blk.{layer}.attn_q_norm.weight": (WIDTH // HEADS,),
            f"blk.{layer}.attn_k_norm.weight": (WIDTH // HEADS,),
            f"blk.{layer}.ffn_gate_inp.weight": (2, WIDTH),
            f"blk.{layer}.ffn_gate_exps.weight": (2, inner, WIDTH),
            f"blk.{layer}.ffn_up_exps.weight": (2, up, WIDTH),
            f"blk.{layer}.ffn_down_exps.weight": (2, WIDTH, inner),
        }
    return shapes


def describe_experts(writer):
    writer.add_expert_count(2)
    writer.add_expert_used_count(1)
    writer.add_key_length(WIDTH // HEADS)
