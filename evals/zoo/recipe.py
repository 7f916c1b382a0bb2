"""One recipe that shrinks any config: by the names its class gives its sizes, never by model type.

The levels, of which the first that builds and runs is taken: ``grouped`` shrinks everything and gives key-value heads
of their own, ``plain`` has as many key-value heads as heads, ``long`` has heads of 128 as well and ``half`` of 64, for
code that splits a head at fixed places, ``depth`` shrinks only counts (layers, experts, vocabulary) and leaves widths
as they are, for architectures whose widths hang together in ways no name tells, ``windows`` shrinks counts and windows
of attention, ``images`` counts but not images, ``own`` nothing at all, for classes whose own defaults are small. The
last ones mend a config besides: ``matched`` is ``plain`` with what the class leaves open filled in, sizes of unknown
names matched to those they equalled, and what the class's own checks say followed, ``paired`` has two layers of every
kind besides, and ``filled`` is ``own`` with what is left open filled in. One more, ``layers``, only cuts the number of
layers, for models at their true sizes.
"""

import inspect
import re

from evals.zoo import relations
from evals.zoo.checks import follow
from evals.zoo.matching import matched, ratios
from evals.zoo.opened import FILLED, filled, stand_in
from evals.zoo.sizes import HEADS, TABLES, size_of

LEVELS = ("grouped", "plain", "long", "half", "depth", "windows", "images", "own", "matched", "paired", "filled")
MENDED = ("matched", "paired", "filled")
"""The levels that also fill what a class leaves open and keep sizes equal that were equal."""
MOST_CHECKS = 8


def shrink(config_class, level):
    """A small config of this class. Raises what the class raises when the sizes do not fit together."""
    if level == "own":
        return config_class()
    if level not in MENDED:
        return _rebuild(config_class(), level, {})
    config = _checked(config_class, {})
    return _rebuild(config, level, ratios(config, TABLES[level]))


def _rebuild(config, level, ratio):
    """The same class made anew with small sizes, so that whatever it derives from them is derived again."""
    changed = _changes(config, level, ratio)
    accepted = inspect.signature(type(config).__init__).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    given = {name: value for name, value in changed.items() if name in accepted or takes_any}
    given = {k: v for k, v in given.items() if k in accepted or hasattr(config, k)}
    if level in MENDED:
        return _checked(type(config), _set_by_composite(config, accepted) | given, config)
    return type(config)(**given)


def _checked(config_class, given, config=None):
    """A config made from these arguments, changed until it passes its own checks."""
    for _ in range(MOST_CHECKS):
        try:
            return config_class(**given)
        except Exception as error:
            if not follow(str(error), given, config or config_class):
                raise
    return config_class(**given)


def _set_by_composite(config, accepted):
    """What a composite sets in one of its parts other than the part's class does."""
    try:
        own = vars(type(config)())
    except Exception:  # noqa: BLE001 - such a class has no values of its own
        return {}
    return {
        name: value
        for name, value in vars(config).items()
        if name in accepted and type(value) in (int, float, bool, str) and value != own.get(name)
    }


def _changes(config, level, ratio):
    from transformers import PreTrainedConfig

    mended = level in MENDED
    hierarchical = any(
        isinstance(vars(config).get(n), (list, tuple)) for n in ("depths", "num_heads", "num_attention_heads")
    )
    table = TABLES["depth" if hierarchical and level != "windows" and not mended else level]
    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    changed = {}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            part = stand_in(name, value) if mended else value
            changed[name] = _rebuild(part, level, ratio) if part is value else part
        elif name in FILLED if value is None else type(value) is int:
            size = size_of(name, table)
            if size is not None and (value is None or value > size or (value > 2 and re.fullmatch(HEADS, name))):
                changed[name] = size
    if mended:
        changed |= matched(values, changed, ratio)
    changed |= relations.layer_lists(values, each=2 if level == "paired" else 1)
    changed |= relations.repeats(values)
    changed |= relations.state_heads(values, changed)
    if level != "filled":
        changed |= relations.stages(values | changed)
    changed |= relations.rope(values | changed)
    if level not in ("layers", "images", "filled"):
        changed |= relations.image(values)
    changed |= relations.windows(values | changed)
    changed |= relations.token_ids(values, changed)
    if mended:
        changed |= filled(config, values | changed)
    if not values.get("default_language") and values.get("languages"):
        changed["default_language"] = next(iter(values["languages"]))
    if "use_cache" in values:
        changed["use_cache"] = False
    return changed


def as_decoder(config):
    """Encoders that have a causal head use it as decoders only."""
    if getattr(config, "is_decoder", None) is False and not config.is_encoder_decoder:
        config.is_decoder = True
    return config
