"""GGUF files: what is streamed out of them is what transformers' own loader makes of them."""

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import shardwright as sw
from shardwright.package import read_manifest

WIDTH, HEADS, KV_HEADS, HIDDEN, VOCAB = 64, 4, 2, 96, 64


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A two-layer Llama, its matrices quantised to 8 bits."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
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
    generator = torch.Generator().manual_seed(0)

    def add(name, *shape):
        values = torch.randn(*shape, generator=generator).numpy()
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", VOCAB, WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(2):
        add(f"blk.{layer}.attn_norm.weight", WIDTH)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH)
        add(f"blk.{layer}.attn_q.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.attn_k.weight", WIDTH // 2, WIDTH)
        add(f"blk.{layer}.attn_v.weight", WIDTH // 2, WIDTH)
        add(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_ranks_hold_what_transformers_reads(file, tmp_path):
    sw.shard_checkpoint(file, tmp_path / "p", mesh=2, cache_length=8)
    config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = transformers.AutoModelForCausalLM.from_config(config)
    wanted = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    sw.gather(tmp_path / "p", tmp_path / "state.safetensors")
    found = load_file(tmp_path / "state.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
    assert read_manifest(tmp_path / "p").extras, "the tokenizer comes along"


def test_a_folder_with_one_gguf_file_will_do(file):
    from shardwright.checkpoint.build import find_checkpoint

    assert find_checkpoint(file.parent) == (file.parent, file.name) == find_checkpoint(file)


def test_a_truncated_file(file, tmp_path):
    (tmp_path / "short.gguf").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(sw.CheckpointError):
        sw.shard_checkpoint(tmp_path / "short.gguf", tmp_path / "p", mesh=2)
    assert not (tmp_path / "p").exists()
