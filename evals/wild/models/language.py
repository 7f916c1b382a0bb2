"""Language: decoders, encoders, recurrences over tokens."""

from evals.wild.entry import Entry, class_of, floats, tokens

LAYERS = {"dim": 64, "depth": 2, "heads": 8, "attn_dim_head": 16}
WORDS = {"num_tokens": 64, "max_seq_len": 16}
CONFIG = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 16, "padded_vocab_size": 64, "rotary_percentage": 1.0}


def x_transformer(layers="Decoder", **given):
    """A function that makes a model over tokens of x-transformers."""

    def transformer():
        made = class_of(f"x_transformers:{layers}")(**LAYERS, **given)
        return class_of("x_transformers:TransformerWrapper")(**WORDS, attn_layers=made)

    return transformer


def x_transformers(label, layers="Decoder", **given):
    """An entry of x-transformers."""
    return Entry("x-transformers", x_transformer(layers, **given), (tokens(),), label=label)


def litgpt(label, **given):
    """A model of litgpt."""

    def gpt():
        return class_of("litgpt.model:GPT")(class_of("litgpt.config:Config")(**CONFIG, **given))

    return Entry("litgpt", gpt, (tokens(),), label=label)


def mamba(module):
    """A function that makes the stack of layers in a module of mambapy."""

    def stack():
        config = class_of(f"{module}:MambaConfig")(d_model=32, n_layers=2, use_cuda=False)
        return class_of(f"{module}:{'VMamba' if module.endswith('vim') else 'Mamba'}")(config)

    return stack


def xlstm():
    """A language model of mLSTM blocks, in plain torch."""
    config = class_of("xlstm:xLSTMLMModelConfig")(
        vocab_size=64,
        embedding_dim=64,
        num_blocks=2,
        context_length=16,
        mlstm_block=class_of("xlstm:mLSTMBlockConfig")(
            mlstm=class_of("xlstm:mLSTMLayerConfig")(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)
        ),
    )
    return class_of("xlstm:xLSTMLMModel")(config)


def minimamba():
    """A small Mamba of minimamba."""
    return class_of("minimamba:Mamba")(class_of("minimamba:MambaLMConfig")(d_model=32, n_layer=2, vocab_size=64))


ENTRIES = (
    Entry("xlstm", xlstm, (tokens(),)),
    Entry("minimamba", minimamba, (tokens(),)),
    x_transformers("plain"),
    x_transformers("encoder", "Encoder"),
    x_transformers("rotary, grouped, swiglu", rotary_pos_emb=True, attn_kv_heads=2, ff_swish=True, ff_glu=True),
    x_transformers("alibi", alibi_pos_bias=True, alibi_num_heads=4),
    x_transformers("relative bias", rel_pos_bias=True),
    x_transformers("talking heads", attn_pre_talking_heads=True, attn_post_talking_heads=True),
    x_transformers("rms norm, qk norm", use_rmsnorm=True, attn_qk_norm=True),
    x_transformers("sandwich norm", sandwich_norm=True),
    x_transformers("memory, gated values", attn_num_mem_kv=4, attn_gate_values=True),
    x_transformers("macaron, shifted", macaron=True, shift_tokens=1),
    Entry(
        "x-transformers",
        "x_transformers:NeoMLP",
        (floats(4, 6),),
        {"dim_in": 6, "dim_hidden": 8, "dim_out": 4, "dim_model": 32, "depth": 2},
    ),
    litgpt("plain"),
    litgpt(
        "llama",
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=96,
        n_query_groups=2,
        parallel_residual=False,
        bias=False,
    ),
    litgpt("gemma", norm_class_name="RMSNorm", mlp_class_name="GemmaMLP", intermediate_size=96, scale_embeddings=True),
    litgpt(
        "mixtral",
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMoE",
        intermediate_size=96,
        n_expert=4,
        n_expert_per_token=2,
    ),
    Entry("mambapy", mamba("mambapy.mamba"), (floats(2, 16, 32),), label="Mamba"),
    Entry("mambapy", mamba("mambapy.vim"), (floats(2, 16, 32),), label="VMamba"),
    Entry(
        "palm-rlhf-pytorch",
        "palm_rlhf_pytorch:PaLM",
        (tokens(),),
        {"num_tokens": 64, "dim": 64, "depth": 2, "dim_head": 16},
    ),
    Entry(
        "yet-another-retnet",
        "yet_another_retnet.retnet:RetNetDecoderLayer",
        (floats(2, 16, 64),),
        {"d_model": 64, "nhead": 4, "dim_feedforward": 128},
    ),
    Entry(
        "yet-another-retnet",
        "yet_another_retnet.retention:MultiScaleRetention",
        (floats(2, 16, 64),) * 3,
        {"embed_dim": 64, "num_heads": 4},
    ),
    Entry(
        "titans-pytorch",
        "titans_pytorch:MemoryAsContextTransformer",
        (tokens(),),
        {
            "num_tokens": 64,
            "dim": 64,
            "depth": 2,
            "segment_len": 8,
            "dim_head": 16,
            "heads": 4,
            "neural_memory_layers": (),
        },
    ),
    Entry("titans-pytorch", "titans_pytorch:MemoryMLP", (floats(4, 32),), {"dim": 32, "depth": 2}),
    Entry(
        "hyper-connections",
        "hyper_connections:HyperConnections",
        (floats(8, 16, 32),),
        {"num_residual_streams": 4, "dim": 32, "layer_index": 0},
    ),
    Entry(
        "clip-anytorch",
        "clip.model:VisionTransformer",
        (floats(2, 3, 32, 32),),
        {"input_resolution": 32, "patch_size": 8, "width": 64, "layers": 2, "heads": 4, "output_dim": 32},
    ),
    Entry(
        "open-clip-torch",
        "open_clip.model:TextTransformer",
        (tokens(),),
        {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 4, "layers": 2, "output_dim": 32},
    ),
    Entry(
        "open-clip-torch",
        "open_clip.model:VisionTransformer",
        (floats(2, 3, 32, 32),),
        {
            "image_size": 32,
            "patch_size": 8,
            "width": 64,
            "layers": 2,
            "heads": 4,
            "mlp_ratio": 2.0,
            "output_dim": 32,
        },
    ),
)
