"""GGUF files: what is streamed out of them is what transformers' own loader makes of them."""

import re

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import shardwright as sw
from shardwright.layout.box import Region, read_region
from shardwright.package.manifest import read_manifest
from shardwright.sources.hugging_face.build import build_model
from shardwright.sources.hugging_face.find_model import find_weights
from shardwright.sources.hugging_face.ties import settle_ties
from tests.support.gguf_files import (
    VOCAB,
    WIDTH,
    describe_experts,
    experts,
    gpt2_shapes,
    llama_shapes,
    write_file,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A two-layer Llama, its matrices quantised to 8 bits."""
    return write_file(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama_shapes())


def built(path):
    """The model of a GGUF file without weights, and what holds them."""
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model, _ = build_model(config, path.parent, torch.float32)
    holders, unused, _ = find_weights(model, path.parent, path.name)
    settle_ties(model, holders, unused)
    return model, holders, unused


def agrees(path):
    """Whether every tensor that transformers reads is held with its values; the model and what is not read."""
    model, holders, unused = built(path)
    wanted = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    assert wanted.keys() <= holders.keys()
    for name, tensor in wanted.items():
        found = read_region(Region.whole(tensor.shape), [holders[name]], tensor.dtype)
        assert torch.equal(found, tensor), name
    return model, unused


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
    from shardwright.sources.hugging_face.build import find_checkpoint

    assert find_checkpoint(file.parent) == (file.parent, file.name) == find_checkpoint(file)


def test_a_truncated_file(file, tmp_path):
    (tmp_path / "short.gguf").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(sw.CheckpointError):
        sw.shard_checkpoint(tmp_path / "short.gguf", tmp_path / "p", mesh=2)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("equal", [False, True])
def test_a_head_beside_the_embedding_is_its_own(equal, tmp_path):
    embedding = torch.randn(VOCAB, WIDTH)
    head = embedding if equal else torch.randn(VOCAB, WIDTH)
    values = {"token_embd.weight": embedding, "output.weight": head}
    shapes = llama_shapes() | {"output.weight": (VOCAB, WIDTH)}
    model, _ = agrees(write_file(tmp_path / "head.gguf", shapes, values=values))
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_tensors_of_another_shape_are_named_all_at_once(tmp_path):
    """Padded, one row, too few, another width, rows that heads do not divide, a norm of one number."""
    wrong = {
        "token_embd.weight": ((80, WIDTH), "'model.embed_tokens.weight' has shape (80, 64), .* (64, 64)"),
        "output.weight": ((1, WIDTH), "'lm_head.weight' has shape (1, 64), .* (64, 64)"),
        "blk.0.ffn_down.weight": ((WIDTH, 32), "'model.layers.0.mlp.down_proj.weight' has shape (64, 32), .* (64, 96)"),
        "blk.1.ffn_up.weight": ((30, WIDTH), "'model.layers.1.mlp.up_proj.weight' has shape (30, 64), .* (96, 64)"),
        "blk.0.attn_q.weight": (
            (50, WIDTH),
            "'model.layers.0.self_attn.q_proj.weight' has shape (50, 64), .* (64, 64)",
        ),
        "blk.1.attn_k.weight": (
            (64, WIDTH),
            "'model.layers.1.self_attn.k_proj.weight' has shape (64, 64), .* (32, 64)",
        ),
        "output_norm.weight": ((1,), "'model.norm.weight' has shape (1,), .* (64,)"),
    }
    shapes = llama_shapes() | {name: shape for name, (shape, _) in wrong.items()}
    path = write_file(tmp_path / "wrong.gguf", shapes)
    with pytest.raises(sw.CheckpointError, match=r"\(7 problems\)") as raised:
        sw.shard_checkpoint(path, tmp_path / "p", mesh=2, cache_length=8)
    for _, says in wrong.values():
        assert re.search(says.replace("(", r"\(").replace(")", r"\)"), str(raised.value)), says
    assert [one.name for one in tmp_path.iterdir()] == ["wrong.gguf"]


def test_a_quantisation_that_cannot_be_undone_is_named(file, monkeypatch):
    monkeypatch.delitem(gguf.quants._type_traits, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(sw.CheckpointError, match=r"\(15 problems\)(?s:.*)'blk.0.attn_q.weight' cannot be dequantised"):
        built(file)


def test_tensors_that_nothing_reads_are_named(tmp_path):
    shapes = llama_shapes() | {"rope_freqs.weight": (8,), "blk.7.attn_norm.weight": (WIDTH,)}
    _, unused = agrees(write_file(tmp_path / "more.gguf", shapes))
    assert [one.name for one in unused] == ["rope_freqs.weight", "blk.7.attn_norm.weight"]


def test_a_gpt2_with_a_head_of_its_own(tmp_path):
    agrees(write_file(tmp_path / "gpt2.gguf", gpt2_shapes(), "gpt2"))


def test_experts_stored_apart_are_put_together(tmp_path):
    model, unused = agrees(write_file(tmp_path / "moe.gguf", experts(), "qwen3moe", describe=describe_experts))
    assert model.model.layers[0].mlp.experts.gate_up_proj.shape == (2, 1536, WIDTH)
    assert not unused


def test_experts_of_which_a_part_is_not_stored(tmp_path):
    shapes = {name: shape for name, shape in experts().items() if name != "blk.1.ffn_up_exps.weight"}
    path = write_file(tmp_path / "moe.gguf", shapes, "qwen3moe", describe=describe_experts)
    with pytest.raises(sw.CheckpointError, match=r"lacks 'blk.1.ffn_up_exps', a part of '.*layers.1.*gate_up_proj'"):
        built(path)


def test_experts_that_do_not_go_together_are_named(tmp_path):
    path = write_file(tmp_path / "moe.gguf", experts(up=40), "qwen3moe", describe=describe_experts)
    with pytest.raises(sw.CheckpointError, match=r"\(2 problems\)(?s:.*)gate_up_proj' has shape \(2, 80, 64\)"):
        built(path)
