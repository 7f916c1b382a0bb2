"""Memory that was freed, given back to the system: glibc keeps what lies between pieces that are still in use."""

import ctypes
import gc


def give_back() -> None:
    """Free what only refers to itself, and give freed memory back, where the C library has a call for that."""
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        # Another library than glibc, or no way to ask the one that runs.
        return
    trim(0)
