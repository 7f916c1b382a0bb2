"""Tiny GGUF files, as llama.cpp writes them."""

import re

import gguf
import torch

WIDTH, HEADS, KV_HEADS, HIDDEN, VOCAB = 64, 4, 2, 96, 64


def llama_shapes():
    """The shapes of a two-layer Llama's tensors, by GGUF name."""
    shapes = {"token_embd.weight": (VOCAB, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (WIDTH,),
            f"blk.{layer}.ffn_norm.weight": (WIDTH,),
            f"blk.{layer}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k.weight": (WIDTH // 2, WIDTH),
            f"blk.{layer}.attn_v.weight": (WIDTH // 2, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_gate.weight": (HIDDEN, WIDTH),
            f"blk.{layer}.ffn_up.weight": (HIDDEN, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, HIDDEN),
        }
    return shapes


def write_file(path, shapes, architecture="llama", *, values=None, describe=lambda writer: None):
    """A GGUF file of tensors at random (or ``values`` by name), matrices quantised to 8 bits."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCAB)
    tokens = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(VOCAB - 4)), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    describe(writer)
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        numbers = (values or {}).get(name, torch.randn(*shape, generator=generator)).numpy()
        if len(shape) == 1:
            writer.add_tensor(name, numbers)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gpt2_shapes():
    """The shapes of a two-layer GPT-2 with a head of its own."""
    shapes = {
        "token_embd.weight": (VOCAB, WIDTH),
        "position_embd.weight": (1024, WIDTH),
        "output.weight": (VOCAB, WIDTH),
    }
    shapes |= dict.fromkeys(("output_norm.weight", "output_norm.bias"), (WIDTH,))
    wide = {"attn_qkv": 3 * WIDTH, "attn_output": WIDTH, "ffn_up": 4 * WIDTH, "ffn_down": WIDTH}
    for layer in range(2):
        for norm in ("attn_norm", "ffn_norm"):
            shapes |= dict.fromkeys((f"blk.{layer}.{norm}.weight", f"blk.{layer}.{norm}.bias"), (WIDTH,))
        for name, size in wide.items():
            shapes[f"blk.{layer}.{name}.weight"] = (size, 4 * WIDTH if name == "ffn_down" else WIDTH)
            shapes[f"blk.{layer}.{name}.bias"] = (size,)
    return shapes


def experts(inner=768, up=768):
    """The shapes of two layers of experts; ``inner`` is what transformers takes for granted."""
    shapes = llama_shapes()
    for layer in range(2):
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
