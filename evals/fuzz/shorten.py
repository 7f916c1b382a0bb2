"""A failing case made shorter: whatever it fails without is left out, one thing after the other."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from evals.fuzz.asked import Asked

Cut = Callable[[Any], Any]
"""A case with one thing less; None where that thing is gone or has to stay."""


def shorten(case: Any, cuts: Iterable[Cut], fails: Callable[[Any], bool]) -> Any:
    """The case after every cut that it still fails with, until no cut is left that it does."""
    cuts, changed = list(cuts), True
    while changed:
        changed = False
        for cut in cuts:
            shorter = cut(case)
            if shorter is not None and fails(shorter):
                case, changed = shorter, True
    return case


def entry_cuts(asked: Asked) -> Iterator[Cut]:
    """A case (with a field ``asked``) without one of its plan's entries, or a layout of inputs or outputs."""
    for what in ("plan", "inputs", "outputs"):
        for axis, held in getattr(asked, what).items():
            for key in held if isinstance(held, dict) else ():
                yield partial(_without_entry, what=what, axis=axis, key=key)


def _without_entry(case: Any, what: str, axis: str, key: Any) -> Any:
    held = getattr(case.asked, what)
    if not isinstance(held[axis], dict) or key not in held[axis]:
        return None
    left = {name: value for name, value in held[axis].items() if name != key}
    return replace(case, asked=replace(case.asked, **{what: {**held, axis: left}}))
