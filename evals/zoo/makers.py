"""Inputs by modality: for each argument a forward pass asks for, how such a tensor looks."""

import torch

BATCH, LENGTH, DECODER_LENGTH, SIDE, SAMPLES = 2, 8, 6, 64, 4000


def _draw():
    return torch.Generator().manual_seed(5)


def find(config, *names, default=None):
    """The first of these attributes that is set, in the config or in its parts."""
    from transformers import PreTrainedConfig

    for name in names:
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            found = find(part, *names)
            if found is not None:
                return found
    return default


def tokens(config, length=LENGTH):
    """Token ids that are not special."""
    size = config.get_text_config().to_dict().get("vocab_size") or find(config, "vocab_size", default=96)
    return torch.randint(3, max(min(size, 80), 4), (BATCH, length), generator=_draw())


def _colours(config):
    return find(config, "num_channels", "in_channels", "in_chans", default=3)


def _side(config):
    size = find(config, "image_size", "max_img_size", default=SIDE)
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def pixels(config):
    """Images, channels first."""
    return torch.randn(BATCH, _colours(config), *_side(config), generator=_draw())


def large_pixels(config):
    """Images of 256 pixels a side, for backbones that halve them often."""
    channels = _colours(config)
    return torch.randn(BATCH, channels, 256, 256, generator=_draw())


def video(config):
    """Frames, then channels."""
    frames = find(config, "num_frames", "frames_per_clip", default=4)
    return torch.randn(
        BATCH,
        frames,
        _colours(config),
        *_side(config),
        generator=_draw(),
    )


def waves(config):
    """Sound samples; codecs take a channel dim."""
    if find(config, "num_mel_bins") is not None and find(config, "max_length") is not None:
        return torch.randn(BATCH, config.max_length, config.num_mel_bins, generator=_draw())
    channels = find(config, "audio_channels")
    shape = (BATCH, SAMPLES) if channels is None else (BATCH, channels, SAMPLES)
    return torch.randn(*shape, generator=_draw())


def spectrum(config):
    """Mel spectra: (batch, bins, frames) where a position table counts frames, else (batch, frames, bins)."""
    bins = find(
        config, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "input_feat_size", default=80
    )
    positions = find(config, "max_source_positions", "audio_max_position_embeddings")
    if positions is not None and find(config, "num_mel_bins") is not None:
        return torch.randn(BATCH, bins, 2 * positions, generator=_draw())
    return torch.randn(BATCH, LENGTH * 4, bins, generator=_draw())


def mels(config):
    """Mel spectra with the bins first."""
    return spectrum(config).transpose(1, 2).contiguous()


def stacked_frames(config):
    """Frames of spectra, as wide as an encoder of stacked frames says."""
    width = find(config, "input_dim", "input_size", "input_feat_size", default=80)
    return torch.randn(BATCH, LENGTH * 4, width, generator=_draw())


def wide_spectrum(config):
    """Mel spectra of 128 bins, for encoders that take no others and do not say so."""
    return torch.randn(BATCH, LENGTH * 4, 128, generator=_draw())


def spectrum_image(config):
    """Mel spectra as images of one channel."""
    return spectrum(config)[:, None]


def codebook_tokens(config):
    """Tokens of several codebooks at each position."""
    books = find(config, "num_codebooks", "num_channels", default=8)
    size = find(config, "vocab_size", default=96)
    return torch.randint(3, max(min(size, 80), 4), (BATCH, LENGTH, books), generator=_draw())


def speech(config):
    """Sound samples, in whole frames of the widest hop in use."""
    return torch.randn(BATCH, 2 * 1920, generator=_draw())


def one_channel(config):
    """Sound samples of one channel, in whole frames."""
    return speech(config)[:, None]


def channels_first(config):
    """Vectors of the model's width, positions last."""
    return hidden(config).transpose(1, 2).contiguous()


def boxes(config):
    """Boxes of tokens on a page."""
    corner = torch.randint(0, 400, (BATCH, LENGTH, 2), generator=_draw())
    return torch.cat([corner, corner + 50], -1)


def series(config):
    """Past values of a time series, one row a step."""
    length = find(config, "context_length", default=32)
    lags = find(config, "lags_sequence", default=[0])
    channels = find(config, "num_input_channels", "input_size", default=1)
    shape = (BATCH, length + max(lags)) if channels == 1 else (BATCH, length, channels)
    return torch.randn(*shape, generator=_draw())


def hidden(config):
    """Vectors of the model's width."""
    return torch.randn(BATCH, LENGTH, find(config, "hidden_size", "d_model", default=64), generator=_draw())


def channels(config):
    """Past values of several series, one column each."""
    length = find(config, "context_length", default=32)
    width = find(config, "num_input_channels", "input_size", default=1)
    return torch.randn(BATCH, length, width, generator=_draw())


def image_pair(config):
    """Two images that are to be matched."""
    return torch.stack([pixels(config), pixels(config).flip(-1)], 1)


def flat_patches(config):
    """Patches of each image, each one row."""
    channels = _colours(config)
    return torch.randn(BATCH, 16, channels * find(config, "patch_size", default=14) ** 2, generator=_draw())


def _vectors(*names, default, length=LENGTH):
    def make(config):
        return torch.randn(BATCH, length, find(config, *names, default=default), generator=_draw())

    return make


def positions_2d(config):
    """Row and column of each of sixteen patches."""
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    return places.expand(BATCH, 16, 2).contiguous()


VOCABULARY_FREE = frozenset({"input_ids", "decoder_input_ids", "qformer_input_ids"})
"""Inputs that are token ids, of any length."""


def patches(config):
    """Patches of all images laid end to end, each one row."""
    channels = _colours(config)
    size, frames = find(config, "patch_size", default=14), find(config, "temporal_patch_size", default=1)
    return torch.randn(BATCH * 16, channels * frames * size**2, generator=_draw())


def grid(config):
    """Frames, rows and columns of patches of each image."""
    return torch.tensor([[1, 4, 4]] * BATCH)


COMPANIONS = frozenset(
    {
        "actions",
        "decoder_input_values",
        "encoder_hidden_states",
        "future_time_features",
        "future_values",
        "past_observed_mask",
        "past_time_features",
        "pixel_attention_mask",
        "pixel_values",
        "spatial_shapes",
        "returns_to_go",
        "rewards",
        "input_ids",
        "input_values",
        "input_features",
        "input_features_mask",
        "timesteps",
        "visual_feats",
        "visual_pos",
    }
)
"""Arguments that have a default and are needed all the same, tried when nothing else runs."""

OTHERWISE = {
    "decoder_input_ids": (codebook_tokens,),
    "hidden_states": (channels_first, one_channel),
    "input_features": (mels, stacked_frames, wide_spectrum, spectrum_image),
    "input_ids": (codebook_tokens,),
    "input_values": (one_channel, speech, spectrum, hidden),
    "latents": (channels_first,),
    "past_values": (channels,),
    "pixel_values": (video, image_pair, flat_patches, large_pixels),
}
"""What else these names mean in some models."""

PATCHES = {"hidden_states": patches, "pixel_values": patches}
"""What these names mean where a grid comes with them."""

MAKERS = {
    "action_embeds": hidden,
    "actions": _vectors("act_dim", default=4),
    "audio_mel": spectrum,
    "audio_mel_mask": lambda config: torch.zeros(BATCH, LENGTH * 4, dtype=torch.bool),
    "bbox": boxes,
    "context_hidden_states": hidden,
    "decoder_input_ids": lambda config: tokens(config, DECODER_LENGTH),
    "decoder_input_values": hidden,
    "encoder_hidden_states": _vectors("encoder_hidden_size", "cross_attention_dim", "hidden_size", default=64),
    "freq": lambda config: torch.zeros(BATCH, 1, dtype=torch.long),
    "future_time_features": _vectors("num_time_features", default=1, length=4),
    "future_values": lambda config: torch.randn(BATCH, 4, generator=_draw()),
    "grid_thw": grid,
    "hidden_states": hidden,
    "image_grid_thw": grid,
    "input_features": spectrum,
    "input_features_mask": lambda config: torch.ones(BATCH, LENGTH * 4, dtype=torch.long),
    "input_ids": tokens,
    "input_values": waves,
    "inputs": hidden,
    "inputs_embeds": hidden,
    "latents": hidden,
    "merge_sizes": lambda config: torch.ones(BATCH, dtype=torch.long),
    "noise_embeds": hidden,
    "past_observed_mask": lambda config: torch.ones_like(series(config)),
    "past_time_features": lambda config: torch.randn(
        *series(config).shape[:2], find(config, "num_time_features", default=1), generator=_draw()
    ),
    "past_values": series,
    "past_values_padding": lambda config: torch.zeros_like(series(config)).long(),
    "pixel_attention_mask": lambda config: torch.ones(BATCH, 16, dtype=torch.long),
    "pixel_position_ids": positions_2d,
    "pixel_values": pixels,
    "pixel_values_videos": video,
    "prompt_masks": pixels,
    "prompt_pixel_values": pixels,
    "qformer_input_ids": tokens,
    "query_embeds": hidden,
    "returns_to_go": _vectors(default=1),
    "rewards": _vectors(default=1),
    "spatial_shapes": lambda config: torch.full((BATCH, 2), 4),
    "states": _vectors("state_dim", default=17),
    "task_inputs": lambda config: tokens(config, find(config, "task_seq_len", default=LENGTH)),
    "timesteps": lambda config: torch.arange(LENGTH).expand(BATCH, LENGTH).contiguous(),
    "visual_feats": _vectors("visual_feat_dim", default=2048, length=4),
    "visual_pos": _vectors("visual_pos_dim", default=4, length=4),
}
