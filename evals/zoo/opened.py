"""What a config class leaves open, and its checkpoints set: filled in by name."""

import re

FILLED = frozenset(
    {
        "prediction_length",
        "vocab_size",
        "head_dim",
        "num_key_value_heads",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
    }
)
"""Sizes that a class may leave open and that are given all the same: checkpoints of such classes have them."""

STAND_IN = "resnet"
"""The backbone of convolutions that comes with transformers."""

OPEN = (
    (r"pad_token_id", 1),
    (r"\w*kv_heads", 1),
    (r"\w*n_heads", 4),
    (r"\w*head_dim", 16),
    (r"\w*(budget|topk)", 8),
    (r"\w*compress_ratio", 2),
    (r"\w*num_experts", 4),
    (r"\w*top_k\w*|\w*experts_per_tok\w*", 2),
    (r"\w*moe_intermediate_size|expert_intermediate_size", 32),
    (r"\w*sliding_window", 4),
    (r"\w*dropout\w*", 0.0),
    (r"\w*rope_theta", 10000.0),
    (r"\w*vocabulary_map", {}),
    (r"clip_qkv", 8.0),
    (r"image_token_(id|index)", 90),
    (r"downsample_rate", "1/2"),
    (r"deepstack_layer_map", [[0, 0], [1, 1]]),
)
"""Values of attributes that are None, or not there at all."""


def filled(config, values):
    """The attributes of a config that are None, and that a name tells how to fill."""
    layers = next((values[n] for n in ("num_hidden_layers", "n_layer", "num_layers") if type(values.get(n)) is int), 0)
    found = _sections(config, values)
    for name, value in values.items():
        if value is None and (kinds := _kinds(name, values)):
            found[name] = [kinds[layer % len(kinds)] for layer in range(layers)]
        elif value is None and (fill := open_value(name, config)) is not None:
            found[name] = fill
    return found


def _sections(config, values):
    """Sections of multi-dimensional rotary embeddings, where a class knows of them and sets none."""
    rope = values.get("rope_parameters")
    if "mrope_section" not in getattr(type(config), "ignore_keys_at_rope_validation", ()) or not isinstance(rope, dict):
        return {}
    if "mrope_section" in rope or "rope_theta" not in rope:
        return {}
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    half = width // 2
    return {"rope_parameters": rope | {"mrope_section": [half // 3, half // 3, half - 2 * (half // 3)]}}


def rope_by_kind(kind, config):
    """Give each kind of layer rotary embeddings of its own; False where a config has no layers of this kind."""
    from transformers import PreTrainedConfig

    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]
    for part in parts:
        rope, kinds = getattr(part, "rope_parameters", None), getattr(part, "layer_types", None) or ()
        if kind in kinds and isinstance(rope, dict) and kind not in rope:
            whole = {"rope_type": "default", "rope_theta": 10000.0} | rope
            part.rope_parameters = {each: dict(whole) for each in dict.fromkeys(kinds)}
            return True
    return False


def open_value(name, config):
    """What an attribute of this name holds; None where the name does not tell."""
    if re.fullmatch(r"num_key_value_heads", name):
        return getattr(config, "num_attention_heads", None)
    return next((value for pattern, value in OPEN if re.fullmatch(pattern, name)), None)


def _kinds(name, values):
    """The kinds of layers that a list of this name names."""
    if name == "mlp_layer_types":
        return ["dense", "sparse"]
    if name == "layer_types":
        return ["conv", "full_attention"] if any(n.startswith("conv_") for n in values) else ["full_attention"]
    return []


def stand_in(name, config):
    """A backbone that is built, for one of a library that is not installed; else the config itself."""
    import torch
    from transformers import AutoBackbone, AutoConfig

    if name != "backbone_config":
        return config
    try:
        with torch.device("meta"):
            AutoBackbone.from_config(config)
    except ImportError:
        return AutoConfig.for_model(
            STAND_IN, depths=[1] * 4, out_indices=getattr(config, "out_indices", None) or [1, 2, 3, 4]
        )
    except Exception:  # noqa: BLE001 - what else is wrong with it shows when it is built
        return config
    return config
