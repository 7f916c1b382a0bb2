"""Inputs of few models: sets of tensors that only go together, and sizes that error messages tell."""

import re

import torch

from evals.zoo.makers import BATCH, LENGTH, find, pixels, tokens


def _draw():
    return torch.Generator().manual_seed(6)


def _frames(config):
    return 4 * find(config, "n_window", default=LENGTH)


def window_mels(config):
    """Mel spectra of whole windows, bins first."""
    return torch.randn(BATCH, find(config, "num_mel_bins", default=80), _frames(config), generator=_draw())


def window_mask(config):
    """Every frame of whole windows counts."""
    return torch.ones(BATCH, _frames(config), dtype=torch.long)


def _patch(config):
    return find(config, "patch_size", default=14)


def patch_images(config):
    """The patches of all images, each an image."""
    channels, size = find(config, "num_channels", "in_channels", default=3), _patch(config)
    return torch.randn(BATCH * 16, channels, size, size, generator=_draw())


def strip(config):
    """The patches of all images side by side in one image."""
    channels, size = find(config, "num_channels", "in_channels", default=3), _patch(config)
    return torch.randn(1, channels, size, BATCH * 16 * size, generator=_draw())


def patch_rows(config):
    """Rows and columns of patches of each image."""
    return torch.tensor([[4, 4]] * BATCH)


def image_lists(config):
    """Lists of one image."""
    return pixels(config)[:, None]


def image_attention(config):
    """Every token sees the one image."""
    return torch.ones(BATCH, LENGTH, 1, dtype=torch.long)


def upper_half(config):
    """Images of half the height that a model takes, which stacks two."""
    whole = pixels(config)
    return whole[..., : whole.shape[-2] // 2, :].contiguous()


def rows_of_codebooks(config):
    """Tokens whose rows are codebooks, one after the other."""
    rows = [tokens(config) for _ in range(find(config, "num_codebooks", default=4))]
    return torch.cat(rows)


def text_and_codebooks(config):
    """A token of text and one of each codebook at every position."""
    books = 1 + find(config, "num_codebooks", default=8)
    size = min(find(config, "codebook_vocab_size", "vocab_size", default=64), 60)
    return torch.randint(3, size, (BATCH, LENGTH, books), generator=_draw())


def image_places(config):
    """The first positions of a text are those of image features."""
    places = torch.zeros(BATCH, _places(config) + LENGTH, dtype=torch.long)
    places[:, : _places(config)] = 1
    return places


def _places(config):
    return find(config, "latent_query_num", default=4)


SETS = {
    "windows of frames": {"input_features": window_mels, "input_features_mask": window_mask},
    "patches as images": {"pixel_values": patch_images},
    "one strip of patches": {"pixel_values": strip, "target_sizes": patch_rows},
    "lists of images": {"pixel_values": image_lists, "image_attention_mask": image_attention},
    "a list of images": {
        "pixel_values": image_lists,
        "pixel_attention_mask": lambda config: torch.ones(BATCH, 1, dtype=torch.bool),
    },
    "halves of images": dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), upper_half),
    "rows of codebooks": {"input_ids": rows_of_codebooks},
    "text and codebooks": {"input_ids": text_and_codebooks},
    "places of images": {
        "input_ids": lambda config: tokens(config, _places(config) + LENGTH),
        "image_embeds_position_mask": image_places,
    },
}
"""Makers of inputs that only go together; a set is tried where a forward pass takes all of it."""

PRODUCT = re.compile(r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")
CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
BROADCAST = re.compile(r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at non-singleton dimension (\d)")


def told(inputs, message):
    """The inputs with one resized as an error message says; nothing where it says no such thing."""
    if match := PRODUCT.search(message):
        sizes = [(-1, int(match[1]), int(match[2]))]
    elif match := CHANNELS.search(message):
        sizes = [(1, int(match[2]), int(match[1]))]
    elif match := BROADCAST.search(message):
        sizes = [(int(match[3]), int(match[1]), int(match[2])), (int(match[3]), int(match[2]), int(match[1]))]
    else:
        return
    for dim, had, wanted in sizes:
        for name, value in reversed(inputs.items()):
            if isinstance(value, torch.Tensor) and value.dim() > max(dim, 1) and value.shape[dim] == had:
                yield name, inputs | {name: _resized(value, dim, wanted)}


def _resized(value, dim, size):
    """As much of a tensor as there is, and again from its start."""
    index = torch.arange(size) % value.shape[dim]
    whole = value.index_select(dim if dim >= 0 else value.dim() + dim, index)
    if value.is_floating_point():
        return torch.randn(whole.shape, generator=_draw())
    return whole
