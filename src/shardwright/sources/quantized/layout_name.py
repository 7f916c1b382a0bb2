"""Which layout a configuration says: writers have called it by several keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from shardwright.errors import CheckpointError


def layout_name(config: Mapping[str, Any], keys: Sequence[str], default: str) -> str:
    """The layout, in lower case, by whichever of the keys is there; raises `CheckpointError` where they differ."""
    said = {key: str(config[key]).lower() for key in keys if config.get(key)}
    if len(set(said.values())) > 1:
        every = " and ".join(f"{key} {value!r}" for key, value in said.items())
        raise CheckpointError(
            f"the quantization_config contradicts itself: {every}\n  try: keep the one that the weights are laid out in"
        )
    return next(iter(said.values()), default)
