"""Models above ten million parameters: what a rank holds of these is what counts."""

from evals.wild.entry import Entry, class_of, floats, image, tokens
from evals.wild.models.vision import TV, timm, torchvision

WIDE = {"dim": 512, "depth": 4, "heads": 8, "attn_dim_head": 64}


def wide_transformer():
    """A decoder of x-transformers of 4 layers."""
    layers = class_of("x_transformers:Decoder")(**WIDE, rotary_pos_emb=True, attn_kv_heads=4, ff_glu=True)
    return class_of("x_transformers:TransformerWrapper")(num_tokens=4096, max_seq_len=64, attn_layers=layers)


def pythia():
    """A model of litgpt by its name."""
    config = class_of("litgpt.config:Config").from_name("pythia-31m")
    return class_of("litgpt.model:GPT")(config)


ENTRIES = (
    timm("resnet50", 64),
    timm("convnext_tiny", 64),
    timm("vit_small_patch16_224", 64, img_size=64),
    timm("efficientnet_b3", 64),
    timm("swin_tiny_patch4_window7_224", 56, img_size=56),
    timm("mixer_s16_224", 224),
    timm("densenet169", 64),
    timm("regnety_032", 64),
    torchvision("resnet34"),
    Entry("torchvision", "torchvision.models:googlenet", (image(64),), {**TV, "init_weights": False}),
    Entry("x-transformers", wide_transformer, (tokens(16, below=4096),)),
    Entry("litgpt", pythia, (tokens(16, below=50000),)),
    Entry(
        "fair-esm",
        "esm:ESM2",
        (tokens(12, below=24),),
        {"num_layers": 4, "embed_dim": 512, "attention_heads": 8, "token_dropout": False},
        label="512 wide",
    ),
    Entry(
        "openai-whisper",
        "whisper.model:TextDecoder",
        (tokens(8, below=4096), floats(2, 20, 512)),
        {"n_vocab": 4096, "n_ctx": 16, "n_state": 512, "n_head": 8, "n_layer": 4},
        label="512 wide",
    ),
    Entry(
        "vit-pytorch",
        "vit_pytorch:ViT",
        (image(64),),
        {"image_size": 64, "patch_size": 16, "num_classes": 10, "dim": 384, "depth": 6, "heads": 6, "mlp_dim": 1536},
        label="384 wide",
    ),
    Entry(
        "neuraloperator",
        "neuralop.models:FNO",
        (floats(1, 3, 32, 32),),
        {"n_modes": (24, 24), "in_channels": 3, "out_channels": 2, "hidden_channels": 96, "n_layers": 4},
        label="96 wide",
    ),
    Entry(
        "diffusers",
        "diffusers:UNet2DConditionModel",
        (floats(2, 4, 16, 16), floats(2), floats(2, 8, 64)),
        {
            "block_out_channels": (128, 256),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        label="256 wide",
    ),
    Entry(
        "diffusers",
        "diffusers:SD3Transformer2DModel",
        (floats(2, 4, 16, 16),),
        {
            "num_attention_heads": 6,
            "attention_head_dim": 64,
            "num_layers": 4,
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "caption_projection_dim": 384,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 64,
        },
        {
            "encoder_hidden_states": floats(2, 8, 64),
            "pooled_projections": floats(2, 64),
            "timestep": floats(2),
        },
        label="384 wide",
    ),
)
