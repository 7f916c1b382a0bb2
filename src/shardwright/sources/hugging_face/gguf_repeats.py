"""What transformers and gguf do again and again while a GGUF file is opened, done once.

The file's fields are parsed anew by whoever asks for a configuration, a tokenizer or the weights, the whole vocabulary
among them; and the table of all names of an architecture is made anew for each of a model's modules.
"""

import functools
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_REPEATED = ("GGUFReader", "get_tensor_name_map")
"""What the package gguf offers that depends on nothing but its arguments: a reader only reads."""
_OPENING = threading.RLock()


@contextmanager
def parsed_once(gguf: str | None) -> Iterator[None]:
    """Let everybody share what is made of the file ``gguf``, where there is one. One thread at a time."""
    if gguf is None or importlib.util.find_spec("gguf") is None:
        # Without the package transformers says what to install.
        yield
        return
    home: Any = importlib.import_module("gguf")
    with _OPENING:
        own = {name: getattr(home, name) for name in _REPEATED}
        for name, make in own.items():
            setattr(home, name, functools.cache(_lean(make)))
        try:
            yield
        finally:
            for name, make in own.items():
                setattr(home, name, make)


def _lean(make: Any) -> Any:
    """A reader that keeps plain arrays; anything else as it is.

    It keeps two arrays for each token of a vocabulary, and a slice of a ``memmap`` takes four times the memory of one.
    """
    if not (isinstance(make, type) and make.__name__ == "GGUFReader"):
        return make

    def held(self: Any) -> Any:
        return self.__dict__["data"]

    def hold(self: Any, mapped: Any) -> None:
        self.__dict__["data"] = np.asarray(mapped)

    return type(make.__name__, (make,), {"data": property(held, hold)})
