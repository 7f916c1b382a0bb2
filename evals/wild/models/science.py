"""Operators on fields, proteins, weather, flows."""

from evals.wild.entry import Entry, floats, tokens

FIELD = floats(2, 3, 16, 16)
MODES = {"n_modes": (8, 8), "in_channels": 3, "out_channels": 2, "hidden_channels": 16, "n_layers": 2}

ENTRIES = (
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
