"""One text as its tokens come: where a stop string cuts it, and how much of it is certain."""

from collections.abc import Iterable, Sequence
from typing import Any

from shardwright.errors import Finding, InputError, raise_findings
from shardwright.layout.values import check_list

_UNFINISHED = "\ufffd"
"""What tokenizers decode to while the last character lacks bytes."""


class Continuation:
    """What follows one prompt. ``stop``: strings that end it, as `check_stop` gives them."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._stop_ids = {number for number, text in special_tokens(tokenizer) if text in stop}
        self.ids: list[int] = []
        self.is_over = False
        """Whether a stop string has ended it."""

    def add(self, token: int) -> bool:
        """One more token; whether the text ends with it."""
        self.ids.append(token)
        self.is_over = token in self._stop_ids or (bool(self._stop) and self._end(self._decoded()) >= 0)
        return self.is_over

    @property
    def text(self) -> str:
        """The text, without what a stop string has cut off."""
        text = self._decoded()
        end = self._end(text)
        return text[:end] if end >= 0 else text

    @property
    def certain(self) -> str:
        """What of the text stays, whatever comes: without half a character or the beginning of a stop string."""
        text = self.text
        if self.is_over:
            return text
        text = text.rstrip(_UNFINISHED)
        held = max((_begun(text, one) for one in self._stop), default=0)
        return text[: len(text) - held]

    def _decoded(self) -> str:
        return self._tokenizer.decode(self.ids, skip_special_tokens=True)

    def _end(self, text: str) -> int:
        """Where the first stop string begins; -1 where there is none."""
        return min((place for place in map(text.find, self._stop) if place >= 0), default=-1)


def _begun(text: str, stop: str) -> int:
    """How many of a stop string's characters, fewer than all, a text ends with."""
    return next((count for count in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:count])), 0)


def check_stop(tokenizer: Any, stop: Any) -> tuple[str, ...]:
    """Stop strings, given as a list or as the one there is; raises `InputError` with all that is wrong with them."""
    given = [stop] if isinstance(stop, str) else check_list(stop, "stop", r'["\n\n"]', error=InputError)
    special = [text for _, text in special_tokens(tokenizer)]
    findings = [finding for one in given if (finding := _odd(one, special)) is not None]
    raise_findings(InputError, findings, summary="these strings cannot end a text")
    return tuple(given)


def _odd(stop: Any, special: Iterable[str]) -> Finding | None:
    if not isinstance(stop, str):
        return Finding(f"a stop string must be a string, got {stop!r}")
    if not stop:
        return Finding("a stop string is empty: every text would end before it begins")
    inside = next((one for one in special if one in stop and one != stop), None)
    if inside is None:
        return None
    return Finding(
        f"the stop string {stop!r} holds {inside!r}, which is a token that is no part of any text",
        remedies=(f"{inside!r} alone",),
    )


def special_tokens(tokenizer: Any) -> list[tuple[int, str]]:
    """The tokens that are left out of texts: their ids and names."""
    return [(number, str(one)) for number, one in tokenizer.added_tokens_decoder.items() if one.special]
