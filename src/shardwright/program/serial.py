"""Compiling is for one thread at a time; threads that ask at once wait for each other.

A program's fake tensors share a mode that torch changes in passing, and what a `ShardedProgram` has made for one rank
is the start of the next one's.

An exported program is millions of objects, and compiling makes more of them than Python takes for reason enough to
search all for garbage, again and again: a third of the time. So what was there before is left out of that search.
"""

import functools
import gc
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Turn:
    """Held by one thread at a time, which may take it again.

    Meanwhile Python looks for garbage among new objects only; but where someone has frozen objects already, that is
    their business.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._is_freezing = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        # Asking is for the outermost: objects that are frozen are counted one by one.
        if self._depth == 1 and not gc.get_freeze_count():
            gc.freeze()
            self._is_freezing = True

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._is_freezing:
            gc.unfreeze()
            self._is_freezing = False
        self._lock.release()


_COMPILING = _Turn()


def one_at_a_time(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, which waits while another thread is in any such function."""

    @functools.wraps(function)
    def in_turn(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with _COMPILING:
            return function(*args, **kwargs)

    return in_turn
