"""Values a caller passes, checked by kind and range where they enter: one place for each kind of value.

Every function gives the value back, and raises the given error in the caller's words when it is of another kind or out
of range. Truth values are not numbers here, and neither infinity nor NaN is one.
"""

import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from shardwright.errors import ShardwrightError

Error = type[ShardwrightError]


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold, and not a truth value."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_count(value: Any, name: str, *, least: int = 0, error: Error = ShardwrightError) -> int:
    """A whole number of at least ``least``."""
    if not is_count(value) or value < least:
        raise error(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def check_number(
    value: Any, name: str, *, above: float | None = None, least: float | None = None, error: Error = ShardwrightError
) -> float:
    """A finite number, greater than ``above``, or of at least ``least``."""
    wanted = f" greater than {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
    fits = is_number(value) and (above is None or value > above) and (least is None or value >= least)
    if not fits:
        raise error(f"{name} must be a number{wanted}, got {value!r}")
    return value


def check_flag(value: Any, name: str, *, error: Error = ShardwrightError) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, got {value!r}")
    return value


def check_mapping(value: Any, name: str, example: str, *, error: Error = ShardwrightError) -> Mapping[Any, Any]:
    """A mapping; ``example`` is one, for the message."""
    if not isinstance(value, Mapping):
        raise error(f"{name} must be a mapping such as {example}, got {value!r}")
    return value


def check_list(value: Any, name: str, example: str, *, error: Error = ShardwrightError) -> Sequence[Any]:
    """A list or another sequence, but no text; ``example`` is one, for the message."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise error(f"{name} must be a list such as {example}, got {value!r}")
    return value


def check_names(value: Any, name: str, example: str, *, error: Error = ShardwrightError) -> Mapping[str, str]:
    """A mapping from strings to strings; ``example`` is one, for the message."""
    found = check_mapping(value, name, example, error=error)
    odd = [f"{key!r}: {one!r}" for key, one in found.items() if not isinstance(key, str) or not isinstance(one, str)]
    if odd:
        raise error(f"{name} maps strings to strings, as {example} does, got {', '.join(odd)}")
    return found


def check_path(value: Any, name: str, *, error: Error = ShardwrightError) -> Path:
    """A path, given as a string or path object."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or "\0" in str(value):
        raise error(f"{name} must be a path, got {value!r}")
    return Path(value)


def check_file(value: Any, name: str, *, error: Error = ShardwrightError) -> Path:
    """The path of a regular file that is there: a pipe or a device would be read without end."""
    path = check_path(value, name, error=error)
    try:
        mode = path.stat().st_mode
    except OSError as cause:
        raise error(f"{name}: cannot read {path}: {cause.strerror or cause}") from cause
    if stat.S_ISDIR(mode):
        raise error(f"{name}: {path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise error(f"{name}: {path} is not a regular file")
    return path


def check_free(value: Any, name: str, *, error: Error = ShardwrightError) -> Path:
    """The path of something to be written: nothing has it yet, no link either, even one that leads nowhere; its folder
    is there.
    """
    path = check_path(value, name, error=error)
    if os.path.lexists(path):
        raise error(f"{name} {path} exists already\n  try: another name, or remove it first")
    if not path.parent.is_dir():
        raise error(f"cannot write {path}: the folder {path.parent} does not exist\n  try: make it first")
    return path
