"""`in_large_pages`: memory for what every step reads whole, in few large pages where the system has them.

Memory is found page by page, and with pages of 4 KB finding it takes a core as long as reading it. Linux gives pages of
2 MB to who asks for them, which torch does not (unless ``THP_MEM_ALLOC_ENABLE`` makes it ask for every tensor of a
process). Measured on a virtual machine with Linux 6.18, one thread, one token times float32 weights of (1536, 576) by
columns, GB/s: small pages 4 to 8, large ones 12; a mapped file, which the system keeps in large pieces by itself, 11.
"""

import itertools
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch

from shardwright.layout.alignment import ALIGNMENT

LARGE_PAGE = 2 << 20
"""Bytes of a large page on x86-64 and, with small pages of 4 KB, on ARM."""


def in_large_pages(wanted: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """Zeros on the CPU with these shapes and dtypes, dense, one behind the other; None where there is no such memory.

    Each begins as `ALIGNMENT` asks, and has a storage of its own. Memory is the system's until it is written to, and
    again when the last of them is gone. What would not fill one large page gets none.
    """
    room = [-(-like.nbytes // ALIGNMENT) * ALIGNMENT for like in wanted]
    memory = _advised(sum(room) + LARGE_PAGE) if sum(room) >= LARGE_PAGE else None
    if memory is None:
        return None
    first = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % LARGE_PAGE
    found = []
    for like, start in zip(wanted, itertools.accumulate(room[:-1], initial=first), strict=True):
        if like.numel():
            found.append(torch.frombuffer(memory, dtype=like.dtype, count=like.numel(), offset=start).view(like.shape))
        else:
            # Torch takes no buffer of nothing.
            found.append(torch.zeros(like.shape, dtype=like.dtype))
    return found


def _advised(num_bytes: int) -> mmap.mmap | None:
    """Memory that is to lie in large pages; None where the system knows none, or has no room."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        return None
    # A kernel without large pages refuses; the memory is as good as any then.
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
