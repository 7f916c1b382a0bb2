"""Values of a quantization_config, checked by kind where they are read: checkpoints come with any JSON in it.

Every function raises `CheckpointError` naming the key, from the top of the configuration (``where``), and its value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shardwright.errors import CheckpointError
from shardwright.layout.values import check_list, check_mapping, is_count

TOP = "quantization_config"

MOST = 2**31 - 1
"""No size of a tensor's block is greater, and torch takes no number beyond 64 bits."""


def whole_number(
    config: Mapping[str, Any],
    keys: Sequence[str],
    default: int | None = None,
    *,
    least: int = 1,
    allow_null: bool = False,
    where: str = TOP,
) -> int:
    """The whole number of at least ``least`` under the first of the keys that is there; else ``default``.

    Without a default one of the keys must be there. ``allow_null``: null counts as not there.
    """
    found = [key for key in keys if key in config and not (allow_null and config[key] is None)]
    if not found and default is not None:
        return default
    if not found:
        raise CheckpointError(
            f"{where} lacks {keys[0]!r}\n  try: write into config.json the number that the weights were packed with"
        )
    return _checked(config[found[0]], f"{where}.{found[0]}", least)


def block_sizes(config: Mapping[str, Any], key: str, *, where: str = TOP) -> tuple[int, int]:
    """The rows and columns that share a scale."""
    name, example = f"{where}.{key}", "[128, 128], rows and columns"
    sizes = check_list(config.get(key), name, example, error=CheckpointError)
    if len(sizes) != 2:
        raise CheckpointError(f"{name} must be two whole numbers such as {example}, got {sizes!r}")
    rows, columns = (_checked(size, f"{name}[{place}]", 1) for place, size in enumerate(sizes))
    return rows, columns


def whole_config(given: Any, key: str = TOP) -> Mapping[str, Any]:
    """The configuration itself, as the mapping that has to be under ``key``."""
    return check_mapping(given, f"config.json: {key}", '{"quant_method": "gptq", "bits": 4}', error=CheckpointError)


def section(config: Mapping[str, Any], key: str, example: str, *, where: str = TOP) -> Mapping[str, Any]:
    """The mapping under a key; empty where it is absent or null."""
    found = config.get(key)
    return {} if found is None else check_mapping(found, f"{where}.{key}", example, error=CheckpointError)


def _checked(value: Any, name: str, least: int) -> int:
    if not is_count(value) or not least <= value <= MOST:
        wanted = f"of at least {least}" if not is_count(value) or value < least else f"of at most {MOST}"
        raise CheckpointError(
            f"{name} must be a whole number {wanted}, got {value!r}\n"
            "  try: write into config.json the number that the weights were packed with"
        )
    return value
