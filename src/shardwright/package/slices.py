"""Copy a slice of a tensor out of a safetensors file without holding more of the file than a block."""

import math
from pathlib import Path

import torch
from safetensors import safe_open

BLOCK_BYTES = 2**26
"""How much of a file is mapped at a time. Mapped pages count as memory while they are mapped."""


def copy_slice(file: Path, name: str, box: tuple[slice, ...], out: torch.Tensor) -> None:
    """Copy a box of the tensor ``name`` into ``out``, which has the box's shape, cast to its dtype.

    The file is opened anew for every block of rows: a mapping keeps every page that was touched until it is closed.
    Raises what safetensors raises.
    """
    if not box or out.dtype == torch.float4_e2m1fn_x2:
        # The library slices no numbers of half a byte.
        with safe_open(file, framework="pt") as opened:
            out.copy_(opened.get_tensor(name)[box])
        return
    rows, start = box[0], box[0].start
    while start < rows.stop:
        with safe_open(file, framework="pt") as opened:
            stored = opened.get_slice(name)
            # Columns of a row lie between others: reading some touches the pages of all.
            row_bytes = math.prod(stored.get_shape()[1:]) * out.element_size()
            stop = min(rows.stop, start + max(1, BLOCK_BYTES // max(row_bytes, 1)))
            out[start - rows.start : stop - rows.start].copy_(stored[(slice(start, stop), *box[1:])])
            del stored
        start = stop
