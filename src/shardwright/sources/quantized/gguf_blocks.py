"""Numbers out of the blocks that llama.cpp packs rows in, to the bit what gguf's `dequantize` makes of them.

A block is some bytes in which the scales of 32 or 256 numbers lie beside them. Everything here takes blocks
(…, blocks, bytes) and gives float32 (…, blocks, numbers) in plain operators, so any dim but the last may be cut. Two
bytes become a float16 by a shift and a view as wide: pointwise, which one kernel does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from shardwright.sources.quantized.mxfp4 import half_of_power, halves


def _split(blocks: Tensor, *sizes: int) -> list[Tensor]:
    """Neighbouring bytes of every block, so many each."""
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [blocks.narrow(-1, start, size) for start, size in zip(starts, sizes, strict=True)]


def _half(pair: Tensor) -> Tensor:
    """The float16 of two bytes (…, 2), the lower first, as float32 (…, 1)."""
    low, high = (pair.narrow(-1, place, 1).to(torch.int16) for place in (0, 1))
    return (low | (high << 8)).view(torch.float16).float()


def _signed(part: Tensor) -> Tensor:
    return part.view(torch.int8).float()


def _fields(part: Tensor, bits: int, width: int) -> Tensor:
    """Numbers of ``bits`` bits, of each ``width`` bytes first what all have lowest, then what all have next.

    (…, bytes) gives (…, 8 / bits · bytes / width, width).
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=part.device).view(-1, 1)
    runs = part.unflatten(-1, (part.shape[-1] // width, 1, width))
    return ((runs >> shifts) & (2**bits - 1)).flatten(-3, -2)


def _bits(part: Tensor) -> Tensor:
    """Every bit of the bytes as a number, the lowest first."""
    shifts = torch.arange(8, dtype=torch.uint8, device=part.device)
    return ((part.unsqueeze(-1) >> shifts) & 1).flatten(-2)


def _q4_0(blocks: Tensor) -> Tensor:
    scale, numbers = _split(blocks, 2, 16)
    return _half(scale) * (_fields(numbers, 4, 16).flatten(-2).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    scale, least, numbers = _split(blocks, 2, 2, 16)
    return _half(scale) * _fields(numbers, 4, 16).flatten(-2).float() + _half(least)


def _q5_0(blocks: Tensor) -> Tensor:
    scale, high, low = _split(blocks, 2, 4, 16)
    return _half(scale) * ((_fields(low, 4, 16).flatten(-2) | (_bits(high) << 4)).float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    scale, least, high, low = _split(blocks, 2, 2, 4, 16)
    return _half(scale) * (_fields(low, 4, 16).flatten(-2) | (_bits(high) << 4)).float() + _half(least)


def _q8_0(blocks: Tensor) -> Tensor:
    scale, numbers = _split(blocks, 2, 32)
    return _signed(numbers) * _half(scale)


def _mxfp4(blocks: Tensor) -> Tensor:
    scale, numbers = _split(blocks, 1, 16)
    return half_of_power(scale) * (halves(_fields(numbers, 4, 16).flatten(-2), torch.float32) + 0.0)


def _q2_k(blocks: Tensor) -> Tensor:
    scales, numbers, scale, least = _split(blocks, 16, 64, 2, 2)
    steps = (_half(scale) * (scales & 15).float()).unsqueeze(-1)
    offsets = (_half(least) * (scales >> 4).float()).unsqueeze(-1)
    return (steps * _fields(numbers, 2, 32).flatten(-2).unflatten(-1, (16, 16)).float() - offsets).flatten(-2)


def _q3_k(blocks: Tensor) -> Tensor:
    high, low, scales, scale = _split(blocks, 32, 64, 12, 2)
    few, many = _split(scales, 8, 4)
    steps = _fields(few, 4, 8).flatten(-2) | (_fields(many, 2, 4).flatten(-2) << 4)
    steps = (_half(scale) * (steps.float() - 32)).unsqueeze(-1)
    # The offset is there where the mask has no bit.
    numbers = _fields(low, 2, 32).float() - 4 * (1 - _fields(high, 1, 32).float())
    return (steps * numbers.flatten(-2).unflatten(-1, (16, 16))).flatten(-2)


def _steps_and_offsets(scale: Tensor, least: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the offset of each of eight runs, of 6 bits each in 12 bytes."""
    first, second, third = _split(packed, 4, 4, 4)
    steps = torch.cat([first & 63, (third & 15) | ((first >> 2) & 48)], -1)
    offsets = torch.cat([second & 63, (third >> 4) | ((second >> 2) & 48)], -1)
    return (_half(scale) * steps.float()).unsqueeze(-1), (_half(least) * offsets.float()).unsqueeze(-1)


def _q4_k(blocks: Tensor) -> Tensor:
    scale, least, packed, numbers = _split(blocks, 2, 2, 12, 128)
    steps, offsets = _steps_and_offsets(scale, least, packed)
    return (steps * _fields(numbers, 4, 32).float() - offsets).flatten(-2)


def _q5_k(blocks: Tensor) -> Tensor:
    scale, least, packed, high, low = _split(blocks, 2, 2, 12, 32, 128)
    steps, offsets = _steps_and_offsets(scale, least, packed)
    return (steps * (_fields(low, 4, 32) | (_fields(high, 1, 32) << 4)).float() - offsets).flatten(-2)


def _q6_k(blocks: Tensor) -> Tensor:
    low, high, scales, scale = _split(blocks, 128, 64, 16, 2)
    steps = (_half(scale) * _signed(scales)).unsqueeze(-1)
    numbers = _fields(low, 4, 64).flatten(-2) | (_fields(high, 2, 32).flatten(-2) << 4)
    return (steps * (numbers.float() - 32).unflatten(-1, (16, 16))).flatten(-2)


def _tq2_0(blocks: Tensor) -> Tensor:
    numbers, scale = _split(blocks, 64, 2)
    return _half(scale) * (_fields(numbers, 2, 32).flatten(-2).float() - 1)


KEPT_KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "MXFP4": _mxfp4,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q8_0": _q8_0,
    "TQ2_0": _tq2_0,
}
"""What unpacks the blocks of each kind that can be kept, by gguf's name of it."""
