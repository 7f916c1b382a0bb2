"""Compiling is for one thread at a time; threads that ask at once wait for each other.

A program's fake tensors share a mode that torch changes in passing, and what a `ShardedProgram` has made for one rank
is the start of the next one's.

An exported program is millions of objects, and compiling makes more of them than Python takes for reason enough to
search all for garbage, again and again: a third of the time. So the search of all objects waits until it is over,
young ones are searched less often, as most of them stay, and code that nobody runs is not written (`quick_tracing`).
"""

import functools
import gc
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

from shardwright.program.torch_repeats import quick_tracing

_P = ParamSpec("_P")
_T = TypeVar("_T")


_NEVER = 1 << 30
"""As the threshold of old objects: Python has so many searches of younger ones before it searches all."""

_YOUNG = 10_000
"""As the least threshold of young objects: so many are made before Python searches them; 700 otherwise."""


class _Turn:
    """Held by one thread at a time, which may take it again; meanwhile Python looks for garbage among young objects."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._thresholds = gc.get_threshold()
        self._tracing = ExitStack()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._depth == 1:
            self._thresholds = gc.get_threshold()
            young, middle, _ = self._thresholds
            # A threshold of 0 is that of somebody who wants no searches at all.
            gc.set_threshold(young and max(young, _YOUNG), middle, _NEVER)
            self._tracing.enter_context(quick_tracing())

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._tracing.close()
            gc.set_threshold(*self._thresholds)
        self._lock.release()


_COMPILING = _Turn()


def one_at_a_time(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, which waits while another thread is in any such function."""

    @functools.wraps(function)
    def in_turn(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with _COMPILING:
            return function(*args, **kwargs)

    return in_turn
