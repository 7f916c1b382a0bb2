"""Dropout: every rank draws the mask of the whole value and takes its part, so that all see what one process sees.

What each rank drew for its own piece would depend on how many ranks there are, and after pieces of different sizes the
ranks' generators would stand at different places: what they hold whole would no longer be the same on all.
"""

from typing import Any

import torch

from shardwright.layout.layout import Shard, cut_of
from shardwright.rules.local import own_piece
from shardwright.rules.operators.dims import named_dims
from shardwright.rules.operators.pointwise import pointwise_rule
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Local, Rule

aten = torch.ops.aten


def native_dropout_rule(call: Call) -> Rule | None:
    """``native_dropout``: entry by entry; None where a size is not known, so that nothing whole could be drawn."""
    # Left out, `train` means that it does.
    if not (call["train"] in (None, True) and call["p"]):
        return pointwise_rule(call)
    dims, sizes = named_dims(call.operands[0].shape)
    if not all(isinstance(size, int) for size in sizes.values()):
        return None
    return Rule((dims,), (dims, dims), sizes, localize=local_dropout, draws=True)


def local_dropout(local: Local) -> Any:
    """This rank's piece under its part of the mask of the whole."""
    value, p, layout = local.arguments["input"], local.arguments["p"], local.strategy.operands[0]
    if not isinstance(layout, Shard):
        return local.run_call()
    whole = local.run(aten.new_ones.default, value, [int(size) for size in local.call.operands[0].shape])
    _, mask = local.run(aten.native_dropout.default, whole, p, True)
    mask = own_piece(local, mask, layout.dim, cut_of(layout))
    scale = 1 / (1 - p) if p < 1 else 0.0
    return [local.run(aten.native_dropout_backward.default, value, mask, scale), mask]


RULES: dict[str, Entry] = {"aten::native_dropout": Entry(native_dropout_rule)}
