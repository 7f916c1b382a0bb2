"""Compiling is for one thread at a time; threads that ask at once wait for each other.

A program's fake tensors share a mode that torch changes in passing, and what a `ShardedProgram` has made for one rank
is the start of the next one's.
"""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_COMPILING = threading.RLock()


def one_at_a_time(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, which waits while another thread is in any such function."""

    @functools.wraps(function)
    def in_turn(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with _COMPILING:
            return function(*args, **kwargs)

    return in_turn
