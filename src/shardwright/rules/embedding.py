"""Embeddings: feature-cut as they stand, vocabulary-cut by a masked lookup whose results add up."""

from typing import Any

import torch

from shardwright.errors import RuleError
from shardwright.layout import Shard, cut_of
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Local

aten = torch.ops.aten


def local_embedding(local: Local) -> Any:
    """Look up the rows this rank holds and give zeros for the others; the ranks' results add up to the embedding."""
    layout = local.strategy.operands[0]
    if not isinstance(layout, Shard) or layout.dim != 0:
        return local.run_call()
    cut = cut_of(layout)
    if not cut.is_chunked:
        raise RuleError(f"an embedding's rows must be cut into one range a rank, not {layout}")
    starts = [next(iter(cut.intervals(rank)), (0, 0))[0] for rank in range(cut.num_ranks)]
    counts = [int(size) for size in cut.local_sizes()]
    weight, indices = local.arguments["weight"], local.arguments["indices"]
    shifted = local.run(aten.sub.Tensor, indices, local.rank_value(starts, torch.int64))
    if counts[local.rank] == 0:
        # No row to look up: nothing but zeros, in the shape of a lookup in a table of one zero row.
        weight = local.run(aten.constant_pad_nd.default, weight, [0, 0, 0, 1])
        return local.run(aten.embedding.default, weight, local.run(aten.zeros_like.default, indices))
    last = local.rank_value([max(count - 1, 0) for count in counts], torch.int64)
    zero = local.rank_value([0] * len(counts), torch.int64)
    clamped = local.run(aten.clamp.Tensor, shifted, zero, last)
    rows = local.run(aten.embedding.default, weight, clamped)
    outside = local.run(aten.unsqueeze.default, local.run(aten.ne.Tensor, shifted, clamped), -1)
    return local.run(aten.masked_fill.Scalar, rows, outside, 0)


RULES: dict[str, Entry] = {
    "aten::embedding": einsum("v d, ... -> ... d", linear=((0,),), localize=local_embedding),
}
