"""Texts on standard output, in the order of their prompts, as soon as they are written."""

import json
import sys
from typing import Literal

from shardwright.generate.continuation import Continuation
from shardwright.generate.writing import Text

Show = Literal["", "text", "json"]

_MOST_SHOWN = 60


class Stream:
    """Prints a text while it is written."""

    def __init__(self) -> None:
        self._printed = 0

    def show(self, text: str) -> None:
        """Print what of a text was not printed before."""
        sys.stdout.write(text[self._printed :])
        sys.stdout.flush()
        self._printed = max(self._printed, len(text))


class Printer:
    """Prints what `write_texts` tells it. ``show``: as text, as JSON lines, or nothing.

    As text, the one text there is is printed word by word; several come one after the other, each under its prompt.
    """

    def __init__(self, show: Show, num_texts: int) -> None:
        self._show, self._num_texts, self._next = show, num_texts, 0
        self._stream = Stream()
        self._waiting: dict[int, Text] = {}

    def more(self, answer: Continuation) -> None:
        """A token of a text has come."""
        if self._show == "text" and self._num_texts == 1:
            self._stream.show(answer.certain)

    def done(self, row: int, text: Text) -> None:
        """A text has ended."""
        self._waiting[row] = text
        while self._next in self._waiting:
            self._print(self._waiting.pop(self._next))
            self._next += 1

    def _print(self, text: Text) -> None:
        if self._show == "json":
            _line(json.dumps(text.record()))
        elif self._show == "text" and self._num_texts == 1:
            self._stream.show(text.text)
            _line("")
        elif self._show == "text":
            _line(f"[{self._next + 1}/{self._num_texts}] {_shortened(text.prompt)}")
            _line(text.text + ("\n" if self._next + 1 < self._num_texts else ""))


def _shortened(prompt: str) -> str:
    first, *more = prompt.strip().splitlines()
    return first[:_MOST_SHOWN] + (" …" if more or len(first) > _MOST_SHOWN else "")


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
