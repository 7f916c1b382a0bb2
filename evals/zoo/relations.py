"""What follows from the small sizes: lists with an entry a layer, sections of rotary embeddings, images, tokens."""

import re

from evals.zoo.sizes import LAYERS, MOST_LAYERS, VOCABULARY


def stages(values):
    """The stages of a hierarchical model keep their widths, but have one block each."""
    return {
        n: type(v)(min(d, 1) for d in v) for n, v in values.items() if n == "depths" and isinstance(v, (list, tuple))
    }


def layer_lists(values, each=1):
    """Lists with an entry a layer keep the first layers of every kind, ``each`` of them, so that each kind is there."""
    count = next(
        (n for n in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if isinstance(values.get(n), int)), None
    )
    if count is None or values[count] <= LAYERS:
        return {}
    columns = {n: v for n, v in values.items() if isinstance(v, (list, tuple)) and len(v) == values[count]}
    if not columns:
        return {}
    kinds = {}
    for layer, row in enumerate(zip(*columns.values(), strict=True)):
        kinds.setdefault(str(row), []).append(layer)
    chosen = sorted(layer for layers in kinds.values() for layer in layers[:each])[: MOST_LAYERS * each]
    chosen += [layer for layer in range(values[count]) if layer not in chosen][: max(LAYERS - len(chosen), 0)]
    found = {name: type(column)(column[layer] for layer in chosen) for name, column in columns.items()}
    return found | {count: len(chosen)}


def repeats(values):
    """Lists of [kinds, repeats] pairs name each layer's kind: every pair once."""
    return {
        name: [[kinds, 1] for kinds, _ in value]
        for name, value in values.items()
        if isinstance(value, list) and value and all(_is_repeat(pair) for pair in value)
    }


def _is_repeat(pair):
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and type(pair[1]) is int


def rope(values):
    """Multi-dimensional rotary embeddings say how many frequencies each dim gets: as many as the small head has."""
    rope, heads = values.get("rope_parameters"), values.get("num_attention_heads")
    width = values.get("head_dim") or (values.get("hidden_size") or 0) // heads if isinstance(heads, int) else None
    if not isinstance(rope, dict) or not width:
        return {}
    section = rope.get("mrope_section")
    count = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    if not section or sum(section) == count:
        return {}
    share = max(count // (len(section) + 1), 1)
    sections = [count - share * (len(section) - 1)] + [share] * (len(section) - 1)
    return {"rope_parameters": rope | {"mrope_section": sections}}


def state_heads(values, changed):
    """Heads of a state-space layer fill its expanded width."""
    expand = next((values[n] for n in ("expand", "mamba_expand") if isinstance(values.get(n), int)), None)
    heads = next((n for n in ("mamba_n_heads", "n_mamba_heads", "num_heads") if n in changed), None)
    width = next((n for n in ("mamba_d_head", "mamba_headdim", "head_dim") if n in changed), None)
    if expand is None or heads is None or width is None or "hidden_size" not in changed:
        return {}
    return {width: expand * changed["hidden_size"] // changed[heads]}


def image(values):
    """Four patches a side, or sixteen where stages merge them."""
    size, patch = values.get("image_size"), values.get("patch_size")
    if isinstance(size, int) and isinstance(patch, int):
        return {"image_size": min(size, (16 if "depths" in values else 4) * patch)}
    return {}


def windows(values):
    """A window counted in pixels holds two merged patches a side."""
    names = ("window_size", "patch_size", "spatial_merge_size")
    window, patch, merge = (values.get(name) for name in names)
    if all(isinstance(size, int) for size in (window, patch, merge)) and window < patch * merge:
        return {"window_size": 2 * patch * merge}
    return {}


def token_ids(values, changed):
    """Special tokens within the small vocabulary: each its own, from the top, where it was beyond it."""
    size = changed.get("vocab_size", values.get("vocab_size"))
    names = [n for n, v in values.items() if re.search(r"token_(id|index)$", n) and isinstance(v, int)]
    found = {}
    for number, name in enumerate(names):
        limit = size if isinstance(size, int) else VOCABULARY
        if not 0 <= values[name] < limit and values[name] >= 0:
            found[name] = limit - 1 - number
    lists = [n for n, v in values.items() if re.search(r"token_ids?$", n) and isinstance(v, (list, tuple))]
    return found | {name: [2] for name in lists}
