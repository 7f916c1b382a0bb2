"""The small sizes, by the names that configs give their sizes."""

import re

VOCABULARY = 96
LAYERS = 2
MOST_LAYERS = 4

HEADS = r"(\w+_)?(num_attention_heads|n_heads?|num_heads|attention_heads|decoder_heads|encoder_heads)"
KEY_VALUE_HEADS = r"(\w+_)?(num_key_value_heads|num_kv_heads|multi_query_group_num|num_query_groups|n_kv_heads)"

COUNTS = (
    (r"(\w+_)?(num_hidden_layers|n_layers?|num_layers|encoder_layers|decoder_layers|depth)", LAYERS),
    (
        r"num_self_attends_per_block|num_(encoder|decoder)_layers|num_blocks|num_hidden_blocks|l_layers|x_layers|r_layers",
        LAYERS,
    ),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|num_first_dense_layers", 1),
    (r"num_kv_shared_layers|num_nextn_predict_layers|mtp_num_\w*layers", 0),
)
"""Numbers of layers."""

# The first pattern that matches a name in full gives its size. None: as it is.
DEPTH = (
    *COUNTS,
    (r"(\w+_)?vocab_size(_\w+)?|\w*unpadded_vocab_size", VOCABULARY),
    (
        r"(\w+_)?vocab_size_per_layer_input|num_hash_buckets|ngram_vocab_size_base|encoder_hash_byte_group_vocab",
        VOCABULARY,
    ),
    (r"(n_routed|num|num_local|moe_num|num_routed|moe_n_routed)_experts|num_experts_per_layer", 4),
    (r"num_experts_per_tok|moe_topk|moe_k|num_selected_experts|moe_top_k", 2),
    (r"(n|num|moe_num|moe_n)_shared_experts", 1),
    (r"n_group|topk_group|num_expert_group|num_limited_groups|topk_groups", 1),
    (r"zero_expert_num", 2),
    (r"max_source_positions|audio_max_position_embeddings", 32),
    (r"(\w+_)?(max_position_embeddings|max_target_positions|max_seq_len|n_positions|n_ctx|max_sequence_length)", 64),
    (r"num_queries|num_query_tokens|num_latents|num_proposals|two_stage_num_proposals", 8),
    (r"index_topk|index_topk_blocks", 8),
    (r"index_kpool|index_block_size", 4),
    (r"prediction_length", 4),
    (r"context_size", 16),
    (r"(mamba_)?chunk_size|mamba_chunk_size", 4),
)
WIDTHS = (
    (r"qk_head_dim", 16),
    (r"mamba_headdim|mamba_d_head|mamba_head_dim", 16),
    (r"(\w+_)?(head_dim|d_kv|d_head|kv_channels|attention_head_size|dim_head|v_head_dim)", 8),
    (r"qk_nope_head_dim|index_head_dim|linear_(key|value)_head_dim", 8),
    (r"qk_rope_head_dim", 8),
    (r"rotary_dim", 4),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|\w*_rank|time_step_rank|mamba_dt_rank", 16),
    (KEY_VALUE_HEADS, 4),
    (r"linear_num_key_heads", 4),
    (HEADS, 8),
    (r"linear_num_value_heads", 8),
    (r"mamba_num_heads|mamba_n_heads|linear_num_heads|index_n_heads", 8),
    (r"mamba_n_groups|n_groups|mamba_ngroups", 2),
    (r"(mamba_)?(d_state|state_size)|ssm_state_size", 8),
    (r"(\w+_)?(moe_intermediate_size|expert_intermediate_size|shared_expert_intermediate_size)", 32),
    (r"moe_hidden_size|expert_ffn_hidden_size|shared_intermediate_size|shared_experts_intermediate_size", 32),
    (r"(\w+_)?(intermediate_size|ffn_dim|d_ff|ffn_hidden_size|dff|feed_forward_size|dim_ff|mlp_dim|n_inner)", 128),
    (r"intermediate_size_mlp|dense_intermediate_size|intermediate_dim|dim_feedforward|attention_hidden_size", 128),
    (r"mamba_d_ssm|d_inner", 128),
    (r"hidden_size_per_layer_input", 16),
    (
        r"(\w+_)?(hidden_size|d_model|n_embd|hidden_dim|embed_dim|embedding_size|emb_dim|dim_model|word_embed_proj_dim)",
        64,
    ),
    (
        r"(\w+_)?(projection_dim|proj_dim|lru_width|encoder_hidden_dim|embedding_dim|cross_attention_dim|feature_size)",
        64,
    ),
    (r"(\w+_)?out_hidden_size|output_dim|d_embed|dim|input_embedding_size|output_embedding_size", 64),
    (r"query_pre_attn_scalar", 8),
    (r"condition_dim|upsample_groups|d_latents", 64),
    (r"sliding_window\w*|attention_window\w*|attention_chunk_size|local_attention|window_size", 4),
)
MORE = (
    (r"\w*num_filters|n_filters", 4),
    (r"codebook_size", 64),
    (r"byte_group_vocab\w*|\w+_codebook_size", VOCABULARY),
    (r"\w*(num_layers|num_hidden_layers|_layers|_depth|depth)", LAYERS),
    (r"\w*num_experts|n_experts", 4),
    (r"\w*top_k_experts|\w*experts_per_tok\w*", 2),
    (r"max_patches|max_num_\w*(patches|frames)", 16),
)
"""Names that few classes use; tried where a config is mended anyhow, so that they change no other."""
TABLES = {
    "grouped": (*DEPTH, *WIDTHS),
    "plain": (*DEPTH, (KEY_VALUE_HEADS, 8), *WIDTHS),
    "long": (
        *DEPTH,
        (r"(\w+_)?head_dim", 128),
        (r"(\w+_)?(hidden_size|d_model|n_embd|hidden_dim|embed_dim)", 1024),
        (KEY_VALUE_HEADS, 8),
        *WIDTHS,
    ),
    "half": (
        *DEPTH,
        (r"(\w+_)?head_dim", 64),
        (r"(\w+_)?(hidden_size|d_model|n_embd|hidden_dim|embed_dim)", 512),
        (KEY_VALUE_HEADS, 8),
        *WIDTHS,
    ),
    "depth": DEPTH,
    "windows": (*DEPTH, (r"window_size", 2)),
    "images": DEPTH,
    "layers": COUNTS,
    "matched": (*DEPTH, *MORE, (KEY_VALUE_HEADS, 8), *WIDTHS),
    "paired": (*DEPTH, *MORE, (KEY_VALUE_HEADS, 8), *WIDTHS),
    "filled": (),
}
# Sizes in a fixed relation to a patch or a list, and names that look like sizes but are not.
KEPT = (r"mm_\w+|patch_size|num_channels|out_channels|in_channels|num_labels|hidden_act\w*|id2label|label2id",)


def size_of(name, table):
    """The small size of this name in a table; None: it stays as it is."""
    if any(re.fullmatch(pattern, name) for pattern in KEPT):
        return None
    return next((size for pattern, size in table if re.fullmatch(pattern, name)), None)
