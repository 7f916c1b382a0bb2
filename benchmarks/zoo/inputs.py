"""Inputs by modality: for each argument a forward pass asks for, how such a tensor looks."""

import inspect

import torch

BATCH, LENGTH, DECODER_LENGTH, SIDE, SAMPLES = 2, 8, 6, 64, 4000


class InputsUnknownError(Exception):
    """A forward pass requires an argument that no maker knows."""


def candidates(model):
    """Labelled keyword inputs to try, the richest first."""
    parameters = inspect.signature(model.forward).parameters
    required = [n for n, p in parameters.items() if p.default is p.empty and not p.kind.name.startswith("VAR")]
    main = model.main_input_name if model.main_input_name in parameters else None
    asked = list(dict.fromkeys([n for n in (main, *required) if n]))
    if unknown := [name for name in asked if name not in MAKERS]:
        raise InputsUnknownError(f"no inputs are known for {', '.join(unknown)}")
    if "decoder_input_ids" in parameters and (model.config.is_encoder_decoder or "input_features" in asked):
        asked.append("decoder_input_ids")
    fixed = {"use_cache": False} if "use_cache" in parameters else {}
    tries = [asked]
    if "input_ids" in asked:
        with_images = image_inputs(model, asked) if "pixel_values" in parameters else None
        if with_images is not None:
            yield " ".join(with_images), {**with_images, **fixed}
        # A model of several modalities takes them all where the forward pass allows it without their tokens.
        more = [
            n for n in ("pixel_values", "input_values", "input_features", "bbox") if n in parameters and n not in asked
        ]
        tries = ([[*asked, *more]] if more else []) + tries
    for names in tries:
        makers = MAKERS | (PATCHES if "grid_thw" in names else {})
        yield " ".join(names), {**{name: makers[name](model.config) for name in names}, **fixed}


def image_inputs(model, asked):
    """Images, and text with as many image tokens as they give features; None where that cannot be told."""
    token = find(model.config, "image_token_id", "image_token_index")
    features = next((m.get_image_features for m in model.modules() if hasattr(m, "get_image_features")), None)
    if token is None or features is None:
        return None
    images = pixels(model.config)
    try:
        with torch.no_grad():
            found = features(images)
    except Exception:  # noqa: BLE001 - a model that needs more than images for this is tried with text alone
        return None
    found = getattr(found, "pooler_output", found)
    rows = found if isinstance(found, (list, tuple)) else [found]
    if not all(isinstance(row, torch.Tensor) for row in rows):
        return None
    count = sum(row.numel() // row.shape[-1] for row in rows) // BATCH
    texts = {name: MAKERS[name](model.config) for name in asked}
    places = torch.full((BATCH, count), token)
    return {
        **texts,
        "input_ids": torch.cat([texts["input_ids"][:, :4], places, texts["input_ids"][:, 4:]], 1),
        "pixel_values": images,
    }


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


def _side(config):
    size = find(config, "image_size", default=SIDE)
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def pixels(config):
    """Images, channels first."""
    return torch.randn(
        BATCH, find(config, "num_channels", "in_channels", "in_chans", default=3), *_side(config), generator=_draw()
    )


def video(config):
    """Frames, then channels."""
    frames = find(config, "num_frames", "frames_per_clip", default=4)
    return torch.randn(
        BATCH,
        frames,
        find(config, "num_channels", "in_channels", "in_chans", default=3),
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


VOCABULARY_FREE = frozenset({"input_ids", "decoder_input_ids", "qformer_input_ids"})
"""Inputs that are token ids, of any length."""


def patches(config):
    """Patches of all images laid end to end, each one row."""
    channels = find(config, "num_channels", "in_channels", "in_chans", default=3)
    size, frames = find(config, "patch_size", default=14), find(config, "temporal_patch_size", default=1)
    return torch.randn(BATCH * 16, channels * frames * size**2, generator=_draw())


def grid(config):
    """Frames, rows and columns of patches of each image."""
    return torch.tensor([[1, 4, 4]] * BATCH)


PATCHES = {"hidden_states": patches, "pixel_values": patches}
"""What these names mean where a grid comes with them."""

MAKERS = {
    "action_embeds": hidden,
    "bbox": boxes,
    "decoder_input_ids": lambda config: tokens(config, DECODER_LENGTH),
    "grid_thw": grid,
    "hidden_states": hidden,
    "input_features": spectrum,
    "input_ids": tokens,
    "input_values": waves,
    "inputs_embeds": hidden,
    "past_values": series,
    "pixel_values": pixels,
    "pixel_values_videos": video,
    "qformer_input_ids": tokens,
    "query_embeds": hidden,
}
