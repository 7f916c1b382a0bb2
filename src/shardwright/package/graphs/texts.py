"""What a graph node says about where it comes from, reduced to what tells a user: modules and lines of code."""

import re
from collections.abc import Mapping

PLAIN = r'^[^"\\\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z'
"""Text that stays text wherever torch writes it: no quotes, no backslashes, no control characters."""

_FRAME = re.compile(r'\s*File "([^"\n]+)", line (\d+), in (\S+)\s*')
_ODD_PLACE = re.compile(r"[^\w./\-+@~ =,<>]")
_ODD_NAME = re.compile(r"[^\w.<>]")
_KEPT = ("nn_module_stack", "torch_fn")


def respell_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """A node's modules, its torch function and its lines of code; all else that torch notes is left out."""
    found = {}
    if "stack_trace" in metadata:
        found["stack_trace"] = _frames(metadata["stack_trace"])
    for key in _KEPT:
        if key in metadata:
            if re.search(PLAIN, metadata[key]) is None:
                raise ValueError(f"the {key} {metadata[key][:100]!r} is none that a sharded graph holds")
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
