"""What the checks of a config class say must hold, and following it."""

import re

NAME = r"`?(?:config\.|self\.)?([A-Za-z_]\w*(?:\.\w+)*)`?"
NUMBER = r"(?:\s*[=(]\s*|\s+)(\d+)\)?`?"
EQUAL = re.compile(
    rf"{NAME}{NUMBER}\s+(?:must|should|has to|needs to) (?:match|equal|be equal to|be)\s+[^=(]*?[=(]\s*(\d+)"
)
SAME = re.compile(rf"{NAME} must (?:match|equal|be equal to) {NAME}")
BE = re.compile(rf"{NAME} must be (\d+|True|False), got")
INDEX = re.compile(rf"{NAME} (\[[-\d, ]+\]) must index the (\d+) layers")


def follow(message, given, config):
    """Change the arguments ``given`` to a config class as its message says; False where it says nothing of use."""
    for pattern, value in (
        (EQUAL, lambda m: int(m[3])),
        (BE, lambda m: {"True": True, "False": False}.get(m[2]) if m[2].isalpha() else int(m[2])),
        (INDEX, lambda m: [int(m[3]) - 1 - i for i in range(m[2].count(",") + 1)]),
        (SAME, lambda m: _get(m[2], given, config)),
    ):
        match = pattern.search(message)
        if match and (found := value(match)) is not None and _set(match[1], found, given, config):
            return True
    return False


def _get(path, given, config):
    """The value at this dotted path."""
    first, *rest = path.split(".")
    value = given.get(first, getattr(config, first, None))
    for name in rest:
        value = getattr(value, name, None)
    return value


def _set(path, value, given, config):
    """Put a value at this dotted path; False where it is there already, or there is no such path."""
    if _get(path, given, config) == value:
        return False
    *parts, name = path.split(".")
    if not parts and isinstance(config, type) and not hasattr(config, name):
        # A class whose own defaults fail its checks: the name is one of its only part.
        parts = list(config.sub_configs_defaults)
        given[parts[0]] = given.get(parts[0], {}) | {name: value} if len(parts) == 1 else None
        return len(parts) == 1
    if not parts:
        given[name] = value
        return True
    owner = _get(".".join(parts), given, config)
    if owner is None:
        return False
    setattr(owner, name, value)
    return True


MISSING = re.compile(r"'(\w+)' object has no attribute '(\w+)'")


def supply(message, config, value_of):
    """Give a config the attribute that a model looked for in vain; False where the message names none.

    ``value_of`` tells from a name what a model would find there.
    """
    from transformers import PreTrainedConfig

    match = MISSING.search(message)
    if match is None:
        return False
    for part in (config, *(p for p in vars(config).values() if isinstance(p, PreTrainedConfig))):
        if type(part).__name__ == match[1] and (value := value_of(match[2], part)) is not None:
            setattr(part, match[2], value)
            return True
    return False
