"""One recipe that shrinks any config: by the names its class gives its sizes, never by model type.

The levels, of which the first that builds and runs is taken: ``grouped`` shrinks everything and gives key-value heads
of their own, ``plain`` has as many key-value heads as heads, ``long`` has heads of 128 as well and ``half`` of 64, for
code that splits a head at fixed places, ``depth`` shrinks only counts (layers, experts, vocabulary) and leaves widths
as they are, for architectures whose widths hang together in ways no name tells, ``windows`` shrinks counts and windows
of attention, ``images`` counts but not images, ``own`` nothing at all, for classes whose own defaults are small. One
more, ``layers``, only cuts the number of layers, for models at their true sizes.
"""

import inspect
import re

LEVELS = ("grouped", "plain", "long", "half", "depth", "windows", "images", "own")
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
FILLED = frozenset(
    {
        "prediction_length",
        "vocab_size",
        "head_dim",
        "num_key_value_heads",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
    }
)
"""Sizes that a class may leave open and that are given all the same: checkpoints of such classes have them."""

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
}
# Sizes in a fixed relation to a patch or a list, and names that look like sizes but are not.
KEPT = (r"mm_\w+|patch_size|num_channels|out_channels|in_channels|num_labels|hidden_act\w*|id2label|label2id",)


def shrink(config_class, level):
    """A small config of this class. Raises what the class raises when the sizes do not fit together."""
    return config_class() if level == "own" else _rebuild(config_class(), level)


def _rebuild(config, level):
    """The same class made anew with small sizes, so that whatever it derives from them is derived again."""
    changed = _changes(config, level)
    accepted = inspect.signature(type(config).__init__).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    given = {name: value for name, value in changed.items() if name in accepted or takes_any}
    return type(config)(**{k: v for k, v in given.items() if k in accepted or hasattr(config, k)})


def _changes(config, level):
    from transformers import PreTrainedConfig

    hierarchical = any(
        isinstance(vars(config).get(n), (list, tuple)) for n in ("depths", "num_heads", "num_attention_heads")
    )
    table = TABLES["depth" if hierarchical and level != "windows" else level]
    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    changed = {}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            changed[name] = _rebuild(value, level)
        elif name in FILLED if value is None else type(value) is int:
            size = _size(name, table)
            if size is not None and (value is None or value > size or (value > 2 and re.fullmatch(HEADS, name))):
                changed[name] = size
    changed |= _layer_lists(values)
    changed |= _repeats(values)
    changed |= _state_heads(values, changed)
    changed |= _stages(values | changed)
    changed |= _rope(values | changed)
    if level not in ("layers", "images"):
        changed |= _image(values)
    changed |= _windows(values | changed)
    changed |= _token_ids(values, changed)
    if not values.get("default_language") and values.get("languages"):
        changed["default_language"] = next(iter(values["languages"]))
    if "use_cache" in values:
        changed["use_cache"] = False
    return changed


def as_decoder(config):
    """Encoders that have a causal head use it as decoders only."""
    if getattr(config, "is_decoder", None) is False and not config.is_encoder_decoder:
        config.is_decoder = True
    return config


def _size(name, table):
    if any(re.fullmatch(pattern, name) for pattern in KEPT):
        return None
    return next((size for pattern, size in table if re.fullmatch(pattern, name)), None)


def _stages(values):
    """The stages of a hierarchical model keep their widths, but have one block each."""
    return {
        n: type(v)(min(d, 1) for d in v) for n, v in values.items() if n == "depths" and isinstance(v, (list, tuple))
    }


def _layer_lists(values):
    """Lists with an entry a layer keep the first layer of every kind, so that each kind is there."""
    count = next(
        (n for n in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if isinstance(values.get(n), int)), None
    )
    if count is None or values[count] <= LAYERS:
        return {}
    columns = {n: v for n, v in values.items() if isinstance(v, (list, tuple)) and len(v) == values[count]}
    if not columns:
        return {}
    first = {}
    for layer, row in enumerate(zip(*columns.values(), strict=True)):
        first.setdefault(str(row), layer)
    chosen = sorted(first.values())[:MOST_LAYERS]
    chosen += [layer for layer in range(values[count]) if layer not in chosen][: max(LAYERS - len(chosen), 0)]
    found = {name: type(column)(column[layer] for layer in chosen) for name, column in columns.items()}
    return found | {count: len(chosen)}


def _repeats(values):
    """Lists of [kinds, repeats] pairs name each layer's kind: every pair once."""
    return {
        name: [[kinds, 1] for kinds, _ in value]
        for name, value in values.items()
        if isinstance(value, list) and value and all(_is_repeat(pair) for pair in value)
    }


def _is_repeat(pair):
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and type(pair[1]) is int


def _rope(values):
    """Multi-dimensional rotary embeddings say how many frequencies each dim gets: as many as the small head has."""
    rope, heads = values.get("rope_parameters"), values.get("num_attention_heads")
    width = values.get("head_dim") or (values.get("hidden_size") or 0) // heads if isinstance(heads, int) else None
    if not isinstance(rope, dict) or not width:
        return {}
    section = rope.get("mrope_section")
    count = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    if not section or sum(section) == count:
        return {}
    share = max(count // (len(section) + 1), 1)
    sections = [count - share * (len(section) - 1)] + [share] * (len(section) - 1)
    return {"rope_parameters": rope | {"mrope_section": sections}}


def _state_heads(values, changed):
    """Heads of a state-space layer fill its expanded width."""
    expand = next((values[n] for n in ("expand", "mamba_expand") if isinstance(values.get(n), int)), None)
    heads = next((n for n in ("mamba_n_heads", "n_mamba_heads", "num_heads") if n in changed), None)
    width = next((n for n in ("mamba_d_head", "mamba_headdim", "head_dim") if n in changed), None)
    if expand is None or heads is None or width is None or "hidden_size" not in changed:
        return {}
    return {width: expand * changed["hidden_size"] // changed[heads]}


def _image(values):
    """Four patches a side, or sixteen where stages merge them."""
    size, patch = values.get("image_size"), values.get("patch_size")
    if isinstance(size, int) and isinstance(patch, int):
        return {"image_size": min(size, (16 if "depths" in values else 4) * patch)}
    return {}


def _windows(values):
    """A window counted in pixels holds two merged patches a side."""
    names = ("window_size", "patch_size", "spatial_merge_size")
    window, patch, merge = (values.get(name) for name in names)
    if all(isinstance(size, int) for size in (window, patch, merge)) and window < patch * merge:
        return {"window_size": 2 * patch * merge}
    return {}


def _token_ids(values, changed):
    """Special tokens within the small vocabulary: each its own, from the top, where it was beyond it."""
    size = changed.get("vocab_size", values.get("vocab_size"))
    names = [n for n, v in values.items() if re.search(r"token_(id|index)$", n) and isinstance(v, int)]
    found = {}
    for number, name in enumerate(names):
        limit = size if isinstance(size, int) else VOCABULARY
        if not 0 <= values[name] < limit and values[name] >= 0:
            found[name] = limit - 1 - number
    lists = [n for n, v in values.items() if re.search(r"token_ids?$", n) and isinstance(v, (list, tuple))]
    return found | {name: [2] for name in lists}
