"""Write a safetensors file tensor by tensor, so that only one of them is in memory.

The safetensors library writes a file from tensors that are all in memory; a rank of a large model does not fit there.
The format is a length (8 bytes, little-endian), a JSON header of names, dtypes, shapes and offsets, then the data.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shardwright.errors import PackageError
from shardwright.layout.alignment import ALIGNMENT
from shardwright.layout.dtypes import DTYPES, check_storable, stored_shape
from shardwright.package.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """The place of one tensor in a file: its name, dtype and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def alignment(self) -> int:
        """What divides its bytes, at most `ALIGNMENT`."""
        return math.gcd(self.num_bytes, ALIGNMENT)


def write_tensors(
    path: Path,
    slots: Sequence[TensorSlot],
    read: Callable[[str], torch.Tensor],
    report: Callable[[int], None] = lambda num_bytes: None,
) -> FileEntry:
    """Write ``path`` from ``read(name)``, called once a slot; its size and SHA-256. The file is flushed to disk.

    ``report`` is called with the bytes of every tensor written. Raises `PackageError` for dtypes that safetensors lacks
    and `OSError` when the disk is full.
    """
    check_storable({slot.name: (slot.dtype, slot.shape) for slot in slots}, PackageError)
    # Of each what divides its bytes divides those before it too, so that no odd one takes all others out of line.
    order = sorted(slots, key=lambda slot: (-slot.alignment, -slot.dtype.itemsize, slot.name))
    header = _header(order)
    digest = hashlib.sha256(header)
    # Whatever has the name is not a file of this run: a link would lead elsewhere.
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(header)
        for slot in order:
            tensor = read(slot.name)
            assert (tuple(tensor.shape), tensor.dtype) == (slot.shape, slot.dtype), f"{slot} got {tensor.shape}"
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            del tensor
            file.write(data)
            digest.update(data)
            report(len(data))
            del data  # the next tensor is read before the name would be given to it
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return FileEntry(path.name, size, digest.hexdigest())


def _header(order: Sequence[TensorSlot]) -> bytes:
    entries: dict[str, object] = {}
    offset = 0
    for slot in order:
        end = offset + slot.num_bytes
        shape = list(stored_shape(slot.shape, slot.dtype))
        entries[slot.name] = {"dtype": DTYPES[slot.dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
