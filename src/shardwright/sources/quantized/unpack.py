"""Numbers out of packed words, in plain operators: each has a rule, and Inductor makes one kernel of them.

Scales are stretched over their blocks rather than the weight viewed as blocks, so a weight may be cut anywhere. Where
no piece begins or ends inside a block the scales are cut with it; else every rank holds them whole, which is little.
"""

import torch
from torch import Tensor

WORD_BITS = 32


def unpack_words(words: Tensor, bits: int, size: int, dim: int, *, is_interleaved: bool = False) -> Tensor:
    """The unsigned numbers of ``bits`` bits in int32 words along ``dim``, ``size`` of them, as int32.

    The first number has the lowest bits. Where ``bits`` does not divide 32, numbers straddle words: ``bits`` words hold
    32 of them. ``is_interleaved``: the lower half of a word holds its even numbers, the upper half its odd ones.
    """
    dim %= words.dim()
    if WORD_BITS % bits:
        return _straddling(words, bits, dim).narrow(dim, 0, size)
    ones = [1] * (words.dim() - 1 - dim)
    shifts = torch.arange(0, WORD_BITS, bits, dtype=torch.int32, device=words.device)
    if is_interleaved:
        shifts = shifts // (2 * bits) * bits + WORD_BITS // 2 * (shifts // bits % 2)
    shifts = shifts.view(-1, *ones)
    # A shift to the right copies the sign; the mask takes the copies off.
    numbers = (words.unsqueeze(dim + 1) >> shifts) & (2**bits - 1)
    return numbers.flatten(dim, dim + 1).narrow(dim, 0, size)


def _straddling(words: Tensor, bits: int, dim: int) -> Tensor:
    """Numbers of 3, 5, 6 or 7 bits, 32 of them in as many words; the last words may be fewer."""
    missing = -words.shape[dim] % bits
    if missing:
        words = torch.cat([words, words.narrow(dim, 0, 1).expand(*_with(words.shape, dim, missing))], dim)
    groups = words.unflatten(dim, (-1, bits))
    numbers = []
    for start in range(0, WORD_BITS * bits, bits):
        word, offset = divmod(start, WORD_BITS)
        number = (groups.select(dim + 1, word) >> offset) & (2 ** min(bits, WORD_BITS - offset) - 1)
        if over := max(0, offset + bits - WORD_BITS):
            number = number | ((groups.select(dim + 1, word + 1) & (2**over - 1)) << (WORD_BITS - offset))
        numbers.append(number)
    return torch.stack(numbers, dim + 1).flatten(dim, dim + 1)


def _with(shape: torch.Size, dim: int, size: int) -> list[int]:
    return [size if place == dim else own for place, own in enumerate(shape)]


def stretch(values: Tensor, block: int, size: int, dim: int) -> Tensor:
    """Each value along ``dim`` as often as its block is long, ``size`` in all; one value stays one, for all."""
    if values.shape[dim] in (1, size):
        return values
    return values.repeat_interleave(block, dim).narrow(dim, 0, size)


def scaled(
    numbers: Tensor,
    scale: Tensor,
    zeros: Tensor | None,
    block: tuple[int, int],
    dtype: torch.dtype,
    groups: Tensor | None = None,
) -> Tensor:
    """``(numbers - zeros) * scale`` as ``dtype``, computed in the wider of that and the scales' dtype.

    ``numbers`` (… rows, columns); ``scale`` and ``zeros``: one a block of ``block`` numbers, or one in all. ``groups``:
    the block of each column, where columns of one block do not lie together.
    """
    *more, rows, columns = numbers.shape
    wide = torch.promote_types(scale.dtype, dtype)

    def over(values: Tensor) -> Tensor:
        if values.dim() < numbers.dim():
            values = values.reshape(*more, -1, 1)
        values = stretch(values, block[0], rows, -2)
        values = stretch(values, block[1], columns, -1) if groups is None else values.index_select(-1, groups)
        return values.to(wide)

    centered = numbers.to(wide) if zeros is None else numbers.to(wide) - over(zeros)
    return (centered * over(scale)).to(dtype)
