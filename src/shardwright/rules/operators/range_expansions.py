"""What chooses scales and zero points, for when what it looks at is cut (see `expansions`).

All that these operators read of a block are its least and its largest value. So they are given a block of these two,
which one reduction finds: the maxima of the values and of their negatives, side by side.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shardwright.layout.sizes import same_size
from shardwright.rules.call import symbolic_size
from shardwright.rules.operators.norm_expansions import Arguments
from shardwright.rules.operators.place_expansions import CUT


def maxima(x: Tensor, dims: list[int], *, keepdim: bool) -> tuple[Tensor, Tensor]:
    """The largest value over ``dims``, and the largest of the negatives: of one tensor, so that one collective reduces
    both.
    """
    largest, negated = torch.stack([x, -x]).amax([dim + 1 for dim in dims], keepdim=keepdim).unbind(0)
    return largest, negated


def extremes(x: Tensor, dims: list[int], along: int) -> Tensor:
    """The largest and the least value over ``dims``, which stay as dims of size 1 but for ``along``, of size 2."""
    largest, negated = maxima(x, dims, keepdim=True)
    return torch.cat([largest, -negated], along)


def _own(a: Arguments) -> dict[str, Any]:
    return {name: value for name, value in a.items() if name != CUT}


def _by_tensor(name: str) -> Callable[[Arguments], Any]:
    """One scale for all of a tensor."""

    def expand(a: Arguments) -> Any:
        x = a["input"]
        op = getattr(torch.ops.quantized_decomposed, name).tensor
        return op(**{**_own(a), "input": extremes(x, list(range(x.ndim)), 0)}) if x.ndim else None

    return expand


def _by_row(name: str) -> Callable[[Arguments], Any]:
    """One scale for every row."""

    def expand(a: Arguments) -> Any:
        op = getattr(torch.ops.quantized_decomposed, name).default
        return op(**{**_own(a), "input": extremes(a["input"], [a["input"].ndim - 1], -1)})

    return expand


def _by_block(name: str, operand: str) -> Callable[[Arguments], Any]:
    """torchao's: one scale for each block; blocks that are groups within a dim stay as they are."""

    def expand(a: Arguments) -> Any:
        x, blocks = a[operand], list(a["block_size"])
        spanned = [dim for dim, block in enumerate(blocks) if spans(block, x.shape[dim])]
        if not spanned:
            return None
        sizes = {dim: 2 if dim == spanned[0] else 1 for dim in spanned}
        small = [sizes.get(dim, block) for dim, block in enumerate(blocks)]
        op = getattr(torch.ops.torchao, name).default
        found = op(**{**_own(a), operand: extremes(x, spanned, spanned[0]), "block_size": small})
        if a.get("keepdim", True):
            return found
        # Dims that one block spans are dropped; of the small blocks only the one of size 2 is such a dim to torchao.
        kept = [size // blocks[dim] for dim, size in enumerate(x.shape) if dim not in sizes]
        return tuple(one.reshape(kept) for one in found)

    return expand


def spans(block: Any, size: Any) -> bool:
    """Whether a block of more than one index is as long as its dim."""
    block = symbolic_size(block)
    return block != 1 and same_size(block, symbolic_size(size))


RANGES: dict[str, Callable[[Arguments], Any]] = {
    "quantized_decomposed::_choose_qparams_per_token_asymmetric_impl": _by_row(
        "_choose_qparams_per_token_asymmetric_impl"
    ),
    "quantized_decomposed::choose_qparams": _by_tensor("choose_qparams"),
    "quantized_decomposed::choose_qparams_per_token": _by_row("choose_qparams_per_token"),
    "quantized_decomposed::choose_qparams_per_token_asymmetric": _by_row("choose_qparams_per_token_asymmetric"),
    "quantized_decomposed::choose_qparams_symmetric": _by_tensor("choose_qparams_symmetric"),
    "torchao::choose_qparams_affine": _by_block("choose_qparams_affine", "input"),
    "torchao::choose_scale_float8": _by_block("choose_scale_float8", "tensor"),
}
