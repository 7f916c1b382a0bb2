"""Models built for export are of the dtypes that transformers gives them, some parts in float32 among them."""

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.hugging_face.build import build_model

T5 = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50)
DEEPSEEK = DeepseekV3Config(
    hidden_size=16,
    intermediate_size=32,
    moe_intermediate_size=8,
    num_hidden_layers=1,
    first_k_dense_replace=0,
    num_attention_heads=2,
    num_key_value_heads=2,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    kv_lora_rank=8,
    q_lora_rank=8,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    vocab_size=40,
)


@pytest.mark.parametrize(
    ("make", "load", "dtype", "kept"),
    [
        (lambda: T5EncoderModel(T5), T5EncoderModel, torch.float16, ".wo."),
        (lambda: DeepseekV3ForCausalLM(DEEPSEEK), AutoModelForCausalLM, torch.bfloat16, "e_score_correction_bias"),
    ],
    ids=["t5 in float16", "deepseek in bfloat16"],
)
def test_what_a_class_keeps_in_float32_stays_so(make, load, dtype, kept, tmp_path):
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "model")
    loaded = load.from_pretrained(tmp_path / "model", dtype=dtype).eval()
    opened = open_checkpoint(tmp_path / "model", dtype=dtype, cache_length=0)
    wanted = {name: tensor.dtype for name, tensor in loaded.state_dict().items()}
    found = {name: tensor.dtype for name, tensor in opened.exported.state_dict.items()}
    assert {name for name, kind in found.items() if kind == torch.float32} == {name for name in found if kept in name}
    assert found.items() <= wanted.items()
    opened.save(sw.shard(opened.exported, mesh=1), tmp_path / "one")
    ids = torch.arange(12).reshape(2, 6)
    inputs = (
        {"input_ids": ids}
        if "deepseek" in type(loaded).__name__.lower()
        else {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
        }
    )
    answer = sw.load(tmp_path / "one")(**inputs)
    with torch.no_grad():
        original = loaded(**inputs)
    answer = answer["last_hidden_state"] if isinstance(answer, dict) else answer
    torch.testing.assert_close(answer, original[0], rtol=2e-2, atol=2e-2)


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
INDEXED = DeepseekV32Config(
    **{**DEEPSEEK.to_dict(), "model_type": "deepseek_v32", "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
)
BLIP = InstructBlipConfig(
    vision_config={**SMALL, "image_size": 16, "patch_size": 8},
    qformer_config={**SMALL, "encoder_hidden_size": 16},
    text_config={"model_type": "t5", **T5.to_dict()},
    num_query_tokens=2,
)


@pytest.mark.parametrize(
    ("kind", "config", "dtype", "kept"),
    [
        (DeepseekV32ForCausalLM, INDEXED, torch.float16, {"indexer.weights_proj", "e_score_correction_bias"}),
        (InstructBlipForConditionalGeneration, BLIP, torch.float16, {"query_tokens", "wo"}),
    ],
    ids=["a text of several parts of a name", "a part of another class"],
)
def test_every_name_is_kept_that_transformers_keeps(kind, config, dtype, kept, tmp_path):
    kind(config).save_pretrained(tmp_path / "model")
    loaded = kind.from_pretrained(tmp_path / "model", dtype=dtype)
    model, _ = build_model(loaded.config, tmp_path / "model", dtype)
    wanted = {name: tensor.dtype for name, tensor in loaded.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == wanted
    names = [name for name, found in wanted.items() if found == torch.float32]
    assert names
    assert all(any(one in name for one in kept) for name in names)


@pytest.mark.parametrize(("kind", "wanted"), [("llama", "sdpa"), ("gpt_oss", "eager")])
def test_a_class_is_built_with_the_attention_it_has(kind, wanted, tmp_path):
    config = CONFIG_MAPPING[kind](**SMALL, attn_implementation="flash_attention_2")
    config.architectures = None
    model, _ = build_model(config, tmp_path, torch.float32)
    assert model.config._attn_implementation == wanted
