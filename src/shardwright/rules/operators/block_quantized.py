"""torchao's quantised operators: one scale for each block of a tensor; ``block_size`` is a block's size, dim by dim.

A block of size 1 gives every index a scale of its own, one as long as the dim gives all of them one; others are groups,
which come apart between groups only. Scales and zero points have one entry a block; dims with one entry may be missing.
"""

from collections.abc import Sequence
from typing import Any

import torch

from shardwright.layout.layout import Shard, cut_of
from shardwright.layout.sizes import Size, same_size
from shardwright.rules.local import local_size
from shardwright.rules.operators.range_expansions import spans
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten


class Blocked:
    """The dims of a tensor in blocks, and of what has one entry for each of them.

    ``dims``: its terms, ``(g w!)`` for groups. ``entries``: (term, size) of one entry a block, dim by dim. ``spanned``:
    the factors of dims that one block spans. ``within``: those of the indices in a group.
    """

    def __init__(self, shape: Sequence[Size], blocks: Sequence[Size]) -> None:
        self.sizes: dict[str, Size] = {}
        self.dims: Dims = ()
        self.entries: list[tuple[Term, Size]] = []
        self.spanned: set[str] = set()
        self.within: set[str] = set()
        for dim, (size, block) in enumerate(zip(shape, blocks, strict=True)):
            term, entry = self._dim(dim, size, block)
            self.dims += (term,)
            self.entries.append(entry)

    def _dim(self, dim: int, size: Size, block: Size) -> tuple[Term, tuple[Term, Size]]:
        name, inner = f"d{dim}", f"w{dim}"
        if spans(block, size):
            self.sizes[name] = size
            self.spanned.add(name)
            return Term((name,)), (Term(), 1)
        if block == 1:
            self.sizes[name] = size
            return Term((name,)), (Term((name,)), size)
        groups = size // block
        self.sizes.update({name: groups, inner: block})
        self.within.add(inner)
        return Term((name, inner)), (Term((name,)), groups)

    def entry_dims(self, shape: Sequence[Size]) -> Dims | None:
        """The dims of a tensor with one entry a block; None where its shape is none of those."""
        wanted = [entry for entry in self.entries if not same_size(entry[1], 1)]
        found: list[Term] = []
        for size in shape:
            if same_size(size, 1):
                found.append(Term())
            elif wanted and same_size(size, wanted[0][1]):
                found.append(wanted.pop(0)[0])
            else:
                return None
        return None if wanted else tuple(found)


def blocks_rule(call: Call) -> Rule | None:
    """Quantise and dequantise: all of a tensor by its blocks' scales and zero points."""
    data, *entries = call.operands
    blocked = Blocked(data.shape, call["block_size"])
    by_entry = [blocked.entry_dims(one.shape) for one in entries]
    if any(one is None for one in by_entry):
        return None
    operands = (blocked.dims, *(one for one in by_entry if one is not None))
    return Rule(operands, (blocked.dims,), blocked.sizes, frozenset(blocked.within), localize=run_blocks)


def choice_rule(call: Call) -> Rule | None:
    """Scales and zero points of a tensor's blocks: what one block spans is whole."""
    blocked = Blocked(call.operands[0].shape, call["block_size"])
    results = [None if one is None else blocked.entry_dims(one.shape) for one in call.results]
    if any(one is None for one in results):
        return None
    fixed = frozenset(blocked.within | blocked.spanned)
    return Rule((blocked.dims,), tuple(results), blocked.sizes, fixed, localize=run_choice)


def scaled_rule(call: Call) -> Rule | None:
    """Float8 by scales alone, whose shape says what the blocks are."""
    data, scale = call.operands
    blocks: Sequence[Size] = data.shape
    if not all(same_size(size, 1) for size in scale.shape):
        if scale.ndim != data.ndim:
            return None
        blocks = [_block(size, count) for size, count in zip(data.shape, scale.shape, strict=True)]
    blocked = Blocked(data.shape, blocks)
    by_entry = blocked.entry_dims(scale.shape)
    if by_entry is None:
        return None
    return Rule((blocked.dims, by_entry), (blocked.dims,), blocked.sizes, frozenset(blocked.within))


def _block(size: Size, count: Size) -> Size:
    return 1 if same_size(size, count) else size // count


def run_blocks(local: Local) -> Any:
    """The call with the block sizes of this rank's piece."""
    return local.run_call(block_size=_local_blocks(local))


def run_choice(local: Local) -> Any:
    """The same; a dim of results that one group is left of is put back, as torchao drops those that one block spans."""
    results = local.run_call(block_size=_local_blocks(local))
    layout = local.strategy.results[0]
    if local.arguments.get("keepdim", True) or not isinstance(layout, Shard):
        return results
    in_groups = len(_cut_term(local).factors) > 1
    if not in_groups or cut_of(layout).local_size(local.rank) != 1:
        return results
    return [local.run(aten.unsqueeze.default, value, layout.dim) for value in results]


def _cut_term(local: Local) -> Term:
    layout = local.strategy.operands[0]
    assert isinstance(layout, Shard), "what has cut results is cut"
    return local.rule.operands[0][layout.dim]


def _local_blocks(local: Local) -> list[Any]:
    """The block sizes of this rank's piece: a dim that one block spans is shorter where it is cut."""
    blocks, shape = list(local.arguments["block_size"]), local.call.operands[0].shape
    layout = local.strategy.operands[0]
    if isinstance(layout, Shard) and spans(local.call["block_size"][layout.dim], shape[layout.dim]):
        blocks[layout.dim] = local_size(local, blocks[layout.dim], cut_of(layout))
    return blocks


_BLOCKS, _CHOICE, _SCALED = Entry(blocks_rule), Entry(choice_rule), Entry(scaled_rule)

RULES: dict[str, Entry] = {
    "torchao::choose_qparams_affine": _CHOICE,
    "torchao::choose_scale_float8": _CHOICE,
    "torchao::dequantize_affine": _BLOCKS,
    "torchao::dequantize_affine_float8_non_decomposed": _SCALED,
    "torchao::quantize_affine": _BLOCKS,
    "torchao::quantize_affine_float8_non_decomposed": _SCALED,
}
