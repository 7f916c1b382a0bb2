"""Language models as training recipes define them: those of torchtune."""

from evals.wild.entry import Entry, class_of, floats, tokens

SIZES = {"vocab_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "max_seq_len": 32}
INNER = {**SIZES, "intermediate_dim": 128}
TEXT = (tokens(),)


def tune(path, given=INNER, args=TEXT, label=""):
    """A model of torchtune, made by the function at this path below its models."""

    def build():
        return class_of(f"torchtune.models.{path}")(**given)

    return Entry("torchtune", build, args, label=label or path.partition(":")[2])


ENTRIES = (
    tune("llama3:llama3"),
    tune("gemma2:gemma2", {**INNER, "head_dim": 16, "sliding_window_size": 8}),
    tune("phi3:phi3"),
    tune("mistral:mistral_classifier", {**INNER, "num_classes": 3}),
    tune("qwen2:qwen2", {**INNER, "tie_word_embeddings": True}),
    tune(
        "llama3:lora_llama3",
        {
            **INNER,
            "lora_attn_modules": ["q_proj", "v_proj"],
            "apply_lora_to_mlp": True,
            "lora_rank": 4,
            "lora_alpha": 8,
        },
    ),
    tune(
        "clip:clip_vision_encoder",
        {"tile_size": 32, "patch_size": 8, "embed_dim": 64, "num_layers": 2, "num_heads": 4, "max_num_tiles": 1},
        (floats(2, 1, 1, 3, 32, 32),),
    ),
    tune(
        "clip:clip_text_encoder",
        {"embed_dim": 64, "num_heads": 4, "num_layers": 2, "vocab_size": 64, "max_seq_len": 16},
    ),
    tune(
        "t5:t5_encoder",
        {
            "embed_dim": 64,
            "mlp_dim": 128,
            "num_heads": 4,
            "head_dim": 16,
            "num_layers": 2,
            "rel_pos_num_buckets": 8,
            "rel_pos_max_dist": 16,
            "vocab_size": 64,
            "norm_eps": 1e-6,
            "max_seq_len": 16,
        },
    ),
)
