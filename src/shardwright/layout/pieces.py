"""A rank's piece of a tensor, and the tensor from all ranks' pieces."""

from collections.abc import Sequence

import torch

from shardwright.layout.cut import on_size
from shardwright.layout.layout import Layout, Partial, Replicate, Shard, cut_of
from shardwright.layout.reduce import reduce_shares


def take_shard(tensor: torch.Tensor, layout: Layout, rank: int) -> torch.Tensor:
    """``rank``'s piece of a whole tensor: a view where one range suffices, else a copy.

    For ``Partial("sum")`` rank 0 takes the value and the others zeros; for other reductions every rank takes the value.
    """
    if rank and isinstance(layout, Partial) and layout.is_zero_but_on_first:
        return torch.zeros_like(tensor)
    if not isinstance(layout, Shard):
        return tensor
    spans = on_size(cut_of(layout), tensor.shape[layout.dim]).intervals(rank)
    if not spans:
        return tensor.narrow(layout.dim, 0, 0)
    pieces = [tensor.narrow(layout.dim, start, stop - start) for start, stop in spans]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, layout.dim)


def join_shards(shards: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
    """The whole tensor from every rank's piece, in rank order: the inverse of `take_shard`."""
    if isinstance(layout, Replicate):
        return shards[0]
    if isinstance(layout, Partial):
        return reduce_shares(shards, layout.op)
    assert isinstance(layout, Shard), f"the pieces of {layout} make no whole"
    dim = layout.dim
    cut = on_size(cut_of(layout), sum(shard.shape[dim] for shard in shards))
    pieces = [shards[rank].narrow(dim, offset, length) for rank, offset, length in cut.sources()]
    return torch.cat(pieces, dim) if pieces else shards[0]
