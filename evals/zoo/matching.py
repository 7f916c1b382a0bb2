"""Sizes whose names tell nothing: those that equalled a known size, or a small multiple or part of it, still do."""

import re
from collections import Counter

from evals.zoo.sizes import size_of

WIDTH = r"\w*(size|dim|dims|width|channels|features|hidden|d_model|units|hidden_size_\w+)"
"""Names of widths, known or not."""
NO_WIDTH = r"(patch|kernel|image|vocab|chunk|window|stride|pool|merge|tile|crop|codebook|batch)\w*_size|num_channels"
INNER = r"intermediate|ffn|mlp|inner|d_ff"
"""Widths within a layer: other parts seldom follow from them."""
LEAST = 32
MULTIPLES = (1, 2, 3, 4, 6, 8)


def ratios(config, table):
    """From each width that a table shrinks, anywhere in a config, to what it becomes."""
    found = Counter()
    _collect(config, table, found)
    small = {}
    for old, new, _ in sorted(found, key=lambda key: (key[2], -found[key])):
        small.setdefault(old, new)
    return small


def _collect(config, table, found):
    from transformers import PreTrainedConfig

    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            _collect(value, table, found)
        elif type(value) is int and value >= LEAST and re.fullmatch(WIDTH, name):
            size = size_of(name, table)
            if size is not None and size < value:
                found[value, size, bool(re.search(INNER, name))] += 1


def matched(values, changed, ratio):
    """The sizes that no table knows, as they follow from those it does."""
    found = {}
    for name, value in values.items():
        if name in changed or not re.fullmatch(WIDTH, name) or re.fullmatch(NO_WIDTH, name):
            continue
        if type(value) is int and value >= LEAST and (size := _follows(value, ratio)):
            found[name] = size
    return found


def _follows(value, ratio):
    for times in MULTIPLES:
        if value % times == 0 and value // times in ratio:
            return ratio[value // times] * times
    for times in MULTIPLES:
        if value * times in ratio and ratio[value * times] % times == 0:
            return ratio[value * times] // times
    return None
