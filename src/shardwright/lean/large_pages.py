"""`in_large_pages`: memory for what every step reads whole, in few large pages where the system has them.

Memory is found page by page, and with pages of 4 KB finding it takes a core as long as reading it. Linux gives pages of
2 MB to who asks for them, which torch does not (unless ``THP_MEM_ALLOC_ENABLE`` makes it ask for every tensor of a
process). Measured on a virtual machine with Linux 6.18, one thread, one token times float32 weights of (1536, 576) by
columns, GB/s: small pages 4 to 8, large ones 12; a mapped file, which the system keeps in large pieces by itself, 11.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch

from shardwright.layout.alignment import ALIGNMENT

LARGE_PAGE = 2 << 20
"""Bytes of a large page on x86-64 and, with small pages of 4 KB, on ARM."""


def in_large_pages(sizes: Sequence[int]) -> list[torch.Tensor]:
    """Zeros (uint8, on the CPU) of these many bytes each, one behind the other; plain memory where there is no better.

    Each has a storage of its own, and none is empty. The system finds memory as it is first written to, and has it back
    when the last of them is gone.
    """
    if not sizes or not hasattr(mmap, "MADV_HUGEPAGE"):
        return [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    room = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    memory = mmap.mmap(-1, sum(room) + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel without large pages refuses; the memory is as good as any then.
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % LARGE_PAGE
    starts = [start + sum(room[:number]) for number in range(len(room))]
    return [
        torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=offset)
        for size, offset in zip(sizes, starts, strict=True)
    ]
