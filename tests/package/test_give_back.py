"""Freed memory goes back to the system, where the C library can be asked for that."""

import ctypes
import weakref
from pathlib import Path

import pytest

from shardwright.package.give_back import give_back


class Ring:
    """Something that refers to itself."""

    def __init__(self):
        self.own = self


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc alone")
def test_what_lies_below_memory_in_use_goes_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    # Small pieces come from the heap, whose end is kept in use.
    pieces = [libc.malloc(2**16) for _ in range(2**10)]
    for piece in pieces:
        ctypes.memset(piece, 1, 2**16)
    last = libc.malloc(2**16)
    for piece in pieces:
        libc.free(piece)
    before = resident_bytes()
    give_back()
    after = resident_bytes()
    libc.free(last)
    assert before - after > 2**25


def test_rings_are_freed():
    ring = weakref.ref(Ring())
    give_back()
    assert ring() is None


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_a_library_without_such_a_call_is_left_alone(error, monkeypatch):
    def refuse(name):
        raise error("no such thing")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    give_back()
