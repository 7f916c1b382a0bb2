"""Diffusion: UNets and transformers that take noise away, and the autoencoders around them."""

from evals.wild.entry import Entry, floats, image, ints

STEP = ints(2, below=100)
ONE = ints(1, below=100)
WORDS = floats(2, 8, 32)
LATENT = floats(2, 4, 16, 16)
HEADS = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2}
CODER = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
CROSS = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "norm_num_groups": 8,
}


def diffusers(name, given, args=(), label="", **kwargs):
    """A model of diffusers."""
    return Entry("diffusers", f"diffusers:{name}", args, given, kwargs, label)


ENTRIES = (
    diffusers(
        "UNet2DModel",
        {
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
        },
        (image(16), STEP),
    ),
    diffusers(
        "UNet2DConditionModel",
        {**CROSS, "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        (LATENT, STEP, WORDS),
    ),
    diffusers(
        "ControlNetModel",
        {**CROSS, "conditioning_embedding_out_channels": (16, 32)},
        (LATENT, STEP, WORDS, image(32)),
    ),
    diffusers("AutoencoderKL", CODER, (image(),)),
    diffusers("VQModel", {**CODER, "num_vq_embeddings": 32}, (image(),)),
    diffusers(
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (32, 32),
            "decoder_block_out_channels": (32, 32),
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
        },
        (image(),),
    ),
    diffusers(
        "FluxTransformer2DModel",
        {
            **HEADS,
            "in_channels": 4,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
        },
        hidden_states=floats(2, 16, 4),
        encoder_hidden_states=WORDS,
        pooled_projections=floats(2, 32),
        timestep=floats(2),
        img_ids=floats(16, 3),
        txt_ids=floats(8, 3),
    ),
    diffusers(
        "SD3Transformer2DModel",
        {
            **HEADS,
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "caption_projection_dim": 32,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 64,
        },
        hidden_states=LATENT,
        encoder_hidden_states=WORDS,
        pooled_projections=floats(2, 64),
        timestep=STEP,
    ),
    diffusers(
        "PixArtTransformer2DModel",
        {**HEADS, "cross_attention_dim": 32, "caption_channels": 32, "sample_size": 16},
        hidden_states=LATENT,
        encoder_hidden_states=WORDS,
        timestep=STEP,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ),
    diffusers(
        "DiTTransformer2DModel",
        {**HEADS, "sample_size": 16, "num_embeds_ada_norm": 8},
        hidden_states=LATENT,
        timestep=STEP,
        class_labels=ints(2, below=8),
    ),
    diffusers(
        "WanTransformer3DModel",
        {**HEADS, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 64, "ffn_dim": 64, "rope_max_seq_len": 32},
        hidden_states=floats(1, 16, 2, 16, 16),
        timestep=ONE,
        encoder_hidden_states=floats(1, 12, 16),
    ),
    diffusers(
        "LTXVideoTransformer3DModel",
        {**HEADS, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 32, "caption_channels": 16},
        hidden_states=floats(2, 32, 8),
        encoder_hidden_states=floats(2, 16, 16),
        timestep=STEP,
        encoder_attention_mask=ints(2, 16, below=2, least=1),
        num_frames=2,
        height=4,
        width=4,
    ),
    diffusers(
        "CogVideoXTransformer3DModel",
        {
            **HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 8,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 8,
            "max_text_seq_length": 8,
        },
        hidden_states=floats(1, 2, 4, 8, 8),
        encoder_hidden_states=floats(1, 8, 8),
        timestep=ONE,
    ),
    diffusers(
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 16,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "caption_projection_dim": 32,
            "joint_attention_dim": 32,
            "pos_embed_max_size": 64,
        },
        hidden_states=LATENT,
        encoder_hidden_states=WORDS,
        timestep=floats(2),
    ),
    diffusers(
        "SanaTransformer2DModel",
        {
            **HEADS,
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_cross_attention_heads": 4,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 32,
            "caption_channels": 32,
            "sample_size": 16,
        },
        hidden_states=LATENT,
        encoder_hidden_states=WORDS,
        timestep=STEP,
    ),
    diffusers(
        "PriorTransformer",
        {**HEADS, "embedding_dim": 32, "num_embeddings": 8, "additional_embeddings": 4},
        hidden_states=floats(2, 32),
        timestep=STEP,
        proj_embedding=floats(2, 32),
        encoder_hidden_states=floats(2, 8, 32),
    ),
    diffusers(
        "T2IAdapter",
        {"channels": (32, 64), "num_res_blocks": 1, "downscale_factor": 8, "adapter_type": "full_adapter"},
        (image(),),
    ),
    Entry(
        "denoising-diffusion-pytorch",
        "denoising_diffusion_pytorch:Unet",
        (image(16), STEP),
        {"dim": 32, "dim_mults": (1, 2), "attn_dim_head": 16},
    ),
    Entry(
        "denoising-diffusion-pytorch",
        "denoising_diffusion_pytorch:Unet1D",
        (floats(2, 3, 32), STEP),
        {"dim": 32, "dim_mults": (1, 2), "attn_dim_head": 16},
    ),
    Entry(
        "video-diffusion-pytorch",
        "video_diffusion_pytorch:Unet3D",
        (floats(2, 3, 4, 16, 16), STEP),
        {"dim": 32, "dim_mults": (1, 2), "attn_heads": 4, "attn_dim_head": 16},
    ),
    Entry(
        "med-seg-diff-pytorch",
        "med_seg_diff_pytorch:Unet",
        (floats(2, 1, 16, 16), STEP, image(16)),
        {"dim": 32, "image_size": 16, "dim_mults": (1, 2), "full_self_attn": (False, True), "attn_dim_head": 16},
    ),
    Entry(
        "mmdit",
        "mmdit:MMDiT",
        (),
        {"depth": 2, "dim_image": 64, "dim_text": 32, "dim_cond": 32, "dim_head": 16, "heads": 4},
        {"text_tokens": floats(2, 8, 32), "image_tokens": floats(2, 16, 64), "time_cond": floats(2, 32)},
    ),
    Entry(
        "rin-pytorch",
        "rin_pytorch:RIN",
        (image(), floats(2)),
        {
            "dim": 64,
            "image_size": 32,
            "patch_size": 8,
            "depth": 1,
            "num_latents": 8,
            "dim_latent": 32,
            "dim_head": 16,
            "heads": 4,
        },
    ),
    Entry(
        "x-unet",
        "x_unet:XUnet",
        (image(),),
        {
            "dim": 16,
            "dim_mults": (1, 2),
            "num_blocks_per_stage": (1, 1),
            "num_self_attn_per_stage": (0, 1),
            "nested_unet_depths": (0, 0),
        },
    ),
    Entry(
        "muse-maskgit-pytorch",
        "muse_maskgit_pytorch:VQGanVAE",
        (image(),),
        {"dim": 16, "layers": 2, "codebook_size": 64, "use_vgg_and_gan": False},
    ),
)
