"""Tensors of a GGUF file that the model holds as the blocks they lie in, rather than dequantised.

llama.cpp reorders rows (queries and keys of a Llama), and transformers puts experts together and transposes. Which row
of the file each row of a model's tensor is shows when transformers' own processors are given numbers of rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.quantized.gguf_blocks import KEPT_KINDS
from shardwright.sources.quantized.weight import PackedWeight, Shape

NOT_BLOCKS = ("F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64")
"""Kinds that are no blocks."""

READ_BYTES = 2**20
"""How much of a file is mapped, and copied, at a time."""

Make = Callable[[Sequence[np.ndarray]], "np.ndarray | torch.Tensor"]
"""What a model's tensor is made of arrays in place of the file's."""


@dataclass(frozen=True)
class GgufBlocks(StoredTensor):
    """The blocks (…, rows, blocks, bytes) of one tensor of a GGUF file.

    ``start``: where they begin in the file, in bytes. ``order``: the number of the file's row that each row is; None:
    as they lie.
    """

    start: int
    order: np.ndarray | None

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the blocks into ``out``, some rows at a time: mapped pages count as memory."""
        *lead, num_blocks, num_bytes = self.shape
        shape = (math.prod(lead), num_blocks, num_bytes)
        order = np.arange(shape[0]).reshape(lead) if self.order is None else self.order
        order, step = order[box[:-2]], max(1, READ_BYTES // (num_blocks * num_bytes))
        for matrix in np.ndindex(order.shape[:-1]):
            rows, to = order[matrix], out[matrix]
            for first in range(0, len(rows), step):
                mapped = np.memmap(self.file, np.uint8, "r", self.start, shape)
                some = mapped[:, box[-2], box[-1]][rows[first : first + step]]
                to[first : first + step] = torch.from_numpy(some)
                del mapped

    def read(self) -> torch.Tensor:
        """All of the blocks."""
        whole = torch.empty(self.shape, dtype=torch.uint8)
        self.copy(tuple(slice(0, size) for size in self.shape), whole)
        return whole


@dataclass(frozen=True, slots=True)
class UnpackGguf:
    """Unpacks a weight: ``kinds`` of its parts, which lie end to end along rows; ``is_transposed``: columns first."""

    kinds: Mapping[str, str]
    is_transposed: bool

    def __call__(self, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """The weight, as ``dtype``; of blocks of some rows, these."""
        made = [KEPT_KINDS[kind](parts[part]).flatten(-2).to(dtype) for part, kind in self.kinds.items()]
        whole = made[0] if len(made) == 1 else torch.cat(made, -2)
        return whole.mT if self.is_transposed else whole


def lies_in_blocks(tensor: Any) -> bool:
    """Whether a tensor of a GGUF file lies in blocks."""
    return tensor.tensor_type.name not in NOT_BLOCKS


def keep_blocks(name: str, shape: Shape, tensors: Sequence[Any], make: Make, path: Path) -> PackedWeight | None:
    """The model's tensor ``name`` of ``shape`` as the blocks of the file's ``tensors``, which ``make`` puts together.

    None where it is made of them in another way than row by row: such a tensor is dequantised.
    """
    rows = _rows_of(shape, tensors, make)
    if rows is None:
        return None
    places, is_transposed = rows
    last = name.rpartition(".")[2]
    parts: dict[str, StoredTensor] = {}
    kinds: dict[str, str] = {}
    start = 0
    for tensor, found in sorted(zip(tensors, _orders(places, tensors), strict=True), key=lambda one: one[1][0]):
        first, order = found
        if first != start:
            return None
        start += order.shape[-1]
        suffix = "_gguf_t" if is_transposed else "_gguf"
        part = last + (f"__{tensor.name.split('.')[-2]}_" if len(tensors) > 1 else "") + suffix
        is_in_order = np.array_equal(order.reshape(-1), np.arange(order.size))
        blocks = (*order.shape, *_blocks_of(tensor))
        held = GgufBlocks(
            blocks, path, tensor.name, torch.uint8, int(tensor.data_offset), None if is_in_order else order
        )
        parts[part], kinds[part] = held, tensor.tensor_type.name
    rows_alone = len(shape) == 2 and len(parts) == 1 and not is_transposed
    return PackedWeight(shape, parts, UnpackGguf(kinds, is_transposed), rows_alone=rows_alone)


def _blocks_of(tensor: Any) -> tuple[int, int]:
    """How many blocks a row of a tensor has, and how many bytes a block."""
    from gguf.constants import GGML_QUANT_SIZES

    numbers, num_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
    return int(tensor.shape[0]) // numbers, num_bytes


def _rows_of(shape: Shape, tensors: Sequence[Any], make: Make) -> tuple[np.ndarray, bool] | None:
    """For each row of the model's tensor (…, rows) the number of the file's, counted from 1 through all ``tensors``,
    and whether its rows are the tensor's last dim; None where it is made otherwise.
    """
    shapes = [tuple(int(size) for size in reversed(tensor.shape)) for tensor in tensors]
    if any(len(one) != len(shape) or len(shape) < 2 for one in shapes):
        return None
    starts = np.cumsum([1, *(math.prod(one[:-1]) for one in shapes)])
    numbers = [
        np.broadcast_to(np.arange(start, start + math.prod(one[:-1]), dtype=np.int32).reshape(*one[:-1], 1), one)
        for start, one in zip(starts[:-1], shapes, strict=True)
    ]
    columns = [np.broadcast_to(np.arange(one[-1], dtype=np.int32), one) for one in shapes]
    by_row, by_column = (np.asarray(make(arrays)) for arrays in (numbers, columns))
    for is_transposed in (False, True):
        if is_transposed:
            by_row, by_column = by_row.swapaxes(-1, -2), by_column.swapaxes(-1, -2)
        wanted = (*shape[:-2], shape[-1] if is_transposed else shape[-2], shapes[0][-1])
        if by_row.shape != wanted:
            continue
        rows, columns_in_order = _without_repeats(by_row), _without_repeats(by_column) == np.arange(wanted[-1])
        if (rows == rows[..., :1]).all() and columns_in_order.all():
            return by_row[..., 0].copy(), is_transposed
    return None


def _without_repeats(array: np.ndarray) -> np.ndarray:
    """An array without what its strides alone repeat: what was moved as it is takes no memory then."""
    return array[tuple(slice(0, 1 if stride == 0 else None) for stride in array.strides)]


def _orders(places: np.ndarray, tensors: Sequence[Any]) -> list[tuple[int, np.ndarray]]:
    """Of each tensor the first of the model's rows that are its own, and the number of the file's row of each.

    A first row of -1, where its rows do not lie next to each other, or not all are there.
    """
    found, start = [], 1
    for tensor in tensors:
        count = math.prod(int(size) for size in tensor.shape[1:])
        own = (places >= start) & (places < start + count)
        mine = np.flatnonzero(own.reshape(-1, places.shape[-1])[0])
        first = int(mine[0]) if len(mine) else -1
        order = places[..., first : first + len(mine)] - start
        if own.sum() != count or order.size != count or order.min() < 0 or order.max() >= count:
            first = -1
        found.append((first, order))
        start += count
    return found
