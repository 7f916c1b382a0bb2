"""Operators on fields, proteins, weather, flows."""

from evals.wild.entry import Entry, class_of, floats, tokens

FIELD = floats(2, 3, 16, 16)
MODES = {"n_modes": (8, 8), "in_channels": 3, "out_channels": 2, "hidden_channels": 16, "n_layers": 2}


def physics(name, given, args=(FIELD,), label=""):
    """A model of nvidia-physicsnemo: the folder it is in, and its class."""
    return Entry("nvidia-physicsnemo", f"physicsnemo.models.{name}", args, given, label=label)


def enformer():
    """A small model over DNA."""
    config = class_of("enformer_pytorch:EnformerConfig")(
        dim=96, depth=1, heads=4, output_heads={"human": 8}, target_length=-1, num_downsamples=3, dim_divisible_by=8
    )
    return class_of("enformer_pytorch:Enformer")(config)


ENTRIES = (
    Entry("enformer-pytorch", enformer, (tokens(256, below=4, batch=1),)),
    physics(
        "afno:AFNO",
        {"inp_shape": [16, 16], "in_channels": 3, "out_channels": 2}
        | {"patch_size": [4, 4], "embed_dim": 64, "depth": 2, "num_blocks": 8},
    ),
    physics(
        "fno:FNO",
        {"in_channels": 3, "out_channels": 2, "latent_channels": 16, "num_fno_layers": 2}
        | {"num_fno_modes": 6, "padding": 2},
    ),
    physics(
        "mlp:FullyConnected",
        {"in_features": 12, "layer_size": 64, "out_features": 4, "num_layers": 3}
        | {"skip_connections": True, "weight_norm": True},
        (floats(8, 12),),
    ),
    physics(
        "pix2pix:Pix2Pix",
        {"in_channels": 3, "out_channels": 2, "dimension": 2, "conv_layer_size": 16}
        | {"n_downsampling": 2, "n_upsampling": 2, "n_blocks": 1},
    ),
    physics(
        "transolver:Transolver",
        {"functional_dim": 3, "out_dim": 2, "embedding_dim": 2, "n_layers": 2}
        | {"n_hidden": 64, "n_head": 4, "slice_num": 8, "use_te": False},
        (floats(2, 30, 3), floats(2, 30, 2)),
    ),
    physics(
        "flare:FLARE",
        {"functional_dim": 3, "out_dim": 2, "embedding_dim": 2, "n_layers": 2}
        | {"n_hidden": 64, "n_head": 4, "slice_num": 8, "use_te": False},
        (floats(2, 30, 3), floats(2, 30, 2)),
    ),
    physics(
        "srrn:SRResNet",
        {"in_channels": 3, "out_channels": 2, "conv_layer_size": 16, "n_resid_blocks": 2} | {"scaling_factor": 2},
        (floats(1, 3, 6, 6, 6),),
    ),
    physics(
        "dlwp:DLWP",
        {"nr_input_channels": 3, "nr_output_channels": 2, "nr_initial_channels": 16},
        (floats(2, 3, 6, 16, 16),),
    ),
    physics(
        "diffusion_unets:SongUNet",
        {"img_resolution": 16, "in_channels": 3, "out_channels": 2}
        | {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]},
        (FIELD, floats(2), None),
    ),
    physics(
        "dit:DiT",
        {"input_size": (16, 16), "in_channels": 3, "patch_size": (4, 4), "hidden_size": 64}
        | {"depth": 2, "num_heads": 4, "dit_initialization": False},
        (FIELD, floats(2)),
    ),
    Entry("neuraloperator", "neuralop.models:FNO", (FIELD,), MODES),
    Entry("neuraloperator", "neuralop.models:FNO", (floats(2, 3, 32),), {**MODES, "n_modes": (8,)}, label="1D"),
    Entry("neuraloperator", "neuralop.models:TFNO", (FIELD,), {**MODES, "rank": 0.5}),
    Entry(
        "neuraloperator",
        "neuralop.models:UNO",
        (FIELD,),
        {
            "in_channels": 3,
            "out_channels": 2,
            "hidden_channels": 16,
            "lifting_channels": 16,
            "projection_channels": 16,
            "n_layers": 3,
            "channel_mlp_skip": "linear",
            "uno_out_channels": [16, 32, 16],
            "uno_n_modes": [[4, 4]] * 3,
            "uno_scalings": [[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]],
        },
    ),
    Entry(
        "fair-esm",
        "esm:ESM2",
        (tokens(12, below=24),),
        {"num_layers": 2, "embed_dim": 64, "attention_heads": 4, "token_dropout": False},
    ),
    Entry(
        "invariant-point-attention",
        "invariant_point_attention:InvariantPointAttention",
        (floats(2, 12, 32), floats(2, 12, 12, 32)),
        {"dim": 32},
        {"rotations": floats(2, 12, 3, 3), "translations": floats(2, 12, 3)},
    ),
    Entry(
        "triangle-multiplicative-module",
        "triangle_multiplicative_module:TriangleMultiplicativeModule",
        (floats(2, 8, 8, 32),),
        {"dim": 32, "hidden_dim": 32, "mix": "ingoing"},
    ),
    Entry(
        "triangle-multiplicative-module",
        "triangle_multiplicative_module:TriangleMultiplicativeModule",
        (floats(2, 8, 8, 32),),
        {"dim": 32, "hidden_dim": 32, "mix": "outgoing"},
        label="outgoing",
    ),
    Entry(
        "unet",
        "unet:UNet2D",
        (floats(2, 1, 32, 32),),
        {"num_encoding_blocks": 3, "out_channels_first_layer": 8, "padding": 1, "normalization": "batch"},
    ),
    Entry("unet3d", "unet3d.unet3d:UNet3d", (floats(2, 1, 16, 16, 16),), {"layers": 2, "pad_in": None, "kernel": 3}),
)
