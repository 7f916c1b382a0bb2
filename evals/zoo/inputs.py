"""Inputs of a model: what its forward pass asks for, and what it may take besides."""

import inspect

import torch

from evals.zoo.makers import BATCH, COMPANIONS, MAKERS, OTHERWISE, PATCHES, find, pixels
from evals.zoo.rare import SETS

NO_TENSOR = {"inference_session": "state in Python objects, kept from one frame to the next, that no program takes"}
"""Arguments that are no tensors, and what they are."""


class InputsUnknownError(Exception):
    """A forward pass requires an argument that no maker knows."""


def least(model):
    """The inputs that a forward pass asks for, and no others."""
    asked, fixed = _asked(model)
    return _made(model, asked, fixed)


def candidates(model, rare=False):
    """Labelled keyword inputs to try, the richest first; last those that few models want, and with ``rare`` fewer."""
    parameters = inspect.signature(model.forward).parameters
    asked, fixed = _asked(model)
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
    # Some ask for more than their signatures say.
    with_all = [*asked, *(n for n in parameters if n in COMPANIONS and n not in asked)]
    if with_all not in tries:
        tries.append(with_all)
    for names in tries:
        yield " ".join(names), _made(model, names, fixed)
    for names in tries:
        for name in names:
            for other in OTHERWISE.get(name, ()):
                made = _remade(model, {name: other})
                if made is not None:
                    yield f"{' '.join(names)} ({other.__name__})", _made(model, names, fixed) | made
    if rare:
        yield from _sets(model, asked, fixed)


def _sets(model, asked, fixed):
    """Inputs that only go together, with what is asked and the text that goes with images."""
    parameters = inspect.signature(model.forward).parameters
    for label, makers in SETS.items():
        if not set(makers) <= set(parameters) or not set(makers) & set(asked) | {"input_ids"}:
            continue
        made = _remade(model, makers)
        if made is None:
            continue
        for more in ([], ["input_ids"], ["input_ids", "decoder_input_ids"]):
            names = list(dict.fromkeys(n for n in (*asked, *more) if n in parameters and n not in makers))
            yield f"{' '.join([*names, *makers])} ({label})", {**_made(model, names, fixed), **made}


def _remade(model, makers):
    """What these makers make; None where this config has not the sizes that they are about."""
    try:
        return {name: make(model.config) for name, make in makers.items()}
    except Exception:  # noqa: BLE001 - whatever a size of another kind leads to
        return None


def _asked(model):
    """The names a forward pass asks for, and what is given to it in any case."""
    parameters = inspect.signature(model.forward).parameters
    required = [n for n, p in parameters.items() if p.default is p.empty and not p.kind.name.startswith("VAR")]
    main = model.main_input_name
    mains = [name for name in (main if isinstance(main, (list, tuple)) else [main]) if name in parameters]
    asked = list(dict.fromkeys([*mains, *required]))
    if no := [f"{name} ({NO_TENSOR[name]})" for name in asked if name in NO_TENSOR]:
        raise InputsUnknownError(f"a forward pass takes {', '.join(no)}")
    if unknown := [name for name in asked if name not in MAKERS]:
        raise InputsUnknownError(f"no inputs are known for {', '.join(unknown)}")
    if "decoder_input_ids" in parameters and (model.config.is_encoder_decoder or "input_features" in asked):
        asked.append("decoder_input_ids")
    return asked, {"use_cache": False} if "use_cache" in parameters else {}


def _made(model, names, fixed):
    makers = MAKERS | (PATCHES if {"grid_thw", "image_grid_thw"} & set(names) else {})
    return {**{name: makers[name](model.config) for name in names}, **fixed}


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
