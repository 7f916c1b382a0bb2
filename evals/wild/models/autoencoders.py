"""Autoencoders: images, videos and sound to latents and back."""

from evals.wild.entry import floats, image
from evals.wild.models.diffusion import CODER, diffusers

CLIP = floats(1, 3, 5, 16, 16)

ENTRIES = (
    diffusers(
        "AsymmetricAutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "down_block_out_channels": (32, 64),
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "up_block_out_channels": (32, 64),
            "norm_num_groups": 8,
        },
        (image(),),
    ),
    diffusers(
        "AutoencoderDC",
        {
            "latent_channels": 4,
            "attention_head_dim": 4,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (16, 32),
            "decoder_block_out_channels": (16, 32),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "decoder_norm_types": "rms_norm",
            "decoder_act_fns": "silu",
        },
        (image(16),),
    ),
    diffusers("AutoencoderKLFlux2", {**CODER, "latent_channels": 4}, (image(),)),
    diffusers(
        "AutoencoderKLCogVideoX",
        {
            "down_block_types": ("CogVideoXDownBlock3D",) * 2,
            "up_block_types": ("CogVideoXUpBlock3D",) * 2,
            "block_out_channels": (16, 16),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "temporal_compression_ratio": 2,
        },
        (CLIP,),
    ),
    diffusers(
        "AutoencoderKLHunyuanVideo",
        {
            "latent_channels": 4,
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        (CLIP,),
    ),
    diffusers(
        "AutoencoderKLLTXVideo",
        {
            "latent_channels": 8,
            "block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
        },
        (floats(1, 3, 9, 32, 32),),
    ),
    diffusers(
        "AutoencoderKLMagvit",
        {
            "block_out_channels": [8, 8, 8, 8],
            "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
            "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        (floats(1, 3, 9, 16, 16),),
    ),
    diffusers(
        "AutoencoderKLMochi",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (32, 32, 32, 32),
            "decoder_block_out_channels": (32, 32, 32, 32),
            "layers_per_block": (1, 1, 1, 1, 1),
            "latents_mean": (0.0,) * 4,
            "latents_std": (1.0,) * 4,
        },
        (floats(1, 3, 7, 16, 16),),
    ),
    diffusers(
        "AutoencoderKLWan",
        {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        (CLIP,),
    ),
    diffusers(
        "AutoencoderKLTemporalDecoder",
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "layers_per_block": 1,
        },
        (image(),),
        num_frames=2,
    ),
    diffusers(
        "AutoencoderOobleck",
        {
            "encoder_hidden_size": 12,
            "decoder_channels": 12,
            "decoder_input_channels": 6,
            "downsampling_ratios": [2, 4],
            "channel_multiples": [1, 2],
        },
        (floats(2, 2, 256),),
    ),
    diffusers(
        "AutoencoderVidTok",
        {"ch": 16, "ch_mult": [1, 2, 2], "z_channels": 4, "num_res_blocks": 1},
        (CLIP,),
        sample_posterior=False,
    ),
    diffusers(
        "MMAudioVAE",
        {"mel_bins": 16, "latent_channels": 4, "hidden_channels": 32, "layers_per_block": 1}
        | {"n_fft": 64, "hop_length": 16, "sample_rate": 4000},
        (floats(2, 512),),
    ),
    diffusers(
        "LongCatAudioDiTVae",
        {"channels": 16, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 4, "encoder_latent_dim": 8},
        (floats(2, 1, 256),),
    ),
)
