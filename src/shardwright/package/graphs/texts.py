"""Where a graph node comes from, reduced to what helps a user: modules and lines of code."""

import re
from collections.abc import Mapping

PLAIN = r'^[^"\\\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z'
"""Text that stays text wherever torch writes it: no quotes, no backslashes, no control characters."""

_FRAME = re.compile(r'\s*File "([^"\n]+)", line (\d+), in (\S+)\s*')
_ODD_PLACE = re.compile(r"[^\w./\-+@~ =,<>]")
_ODD_NAME = re.compile(r"[^\w.<>]")
_KEPT = ("nn_module_stack", "torch_fn")


def is_plain(text: str) -> bool:
    """Whether a text stays one wherever torch writes it."""
    return re.search(PLAIN, text) is not None


def reformat_message(text: str) -> str:
    """A message without what would end a text: double quotes become single ones, the rest blanks."""
    kept = text.replace('"', "'")
    return kept if is_plain(kept) else "".join(c if is_plain(c) else " " for c in kept)


def reformat_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """A node's modules, its torch function and its lines of code; all else that torch notes is left out."""
    found = {}
    if "stack_trace" in metadata:
        found["stack_trace"] = _frames(metadata["stack_trace"])
    for key in _KEPT:
        if key in metadata:
            if not is_plain(metadata[key]):
                raise ValueError(f"the {key} {metadata[key][:100]!r} is not one that a sharded graph holds")
            found[key] = metadata[key]
    return found


def _frames(trace: str) -> str:
    """File, line and function of every frame; the code itself is in the file."""
    frames = [match for line in trace.split("\n") if (match := _FRAME.fullmatch(line)) is not None]
    lines = [
        f'  File "{_ODD_PLACE.sub("_", place)}", line {line}, in {_ODD_NAME.sub("_", name)}\n    ...'
        for place, line, name in (match.groups() for match in frames)
    ]
    return "\n".join(lines)
