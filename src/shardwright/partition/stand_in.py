"""What is known of a value without moving it: its sizes, from any rank's piece."""

import operator
from typing import Any

import torch
from torch import fx

from shardwright.layout.layout import Layout, Shard, cut_of, local_shape
from shardwright.partition.emit import Emitter

aten = torch.ops.aten


def whole_size(emit: Emitter, size: fx.Node, layout: Layout, dim: int, rank: int) -> fx.Node:
    """The global size of a dim, from that of this rank's piece; see `tells_sizes`."""
    if not isinstance(layout, Shard) or layout.dim != dim:
        return size
    cut = cut_of(layout)
    if cut.is_concrete and not cut.owned(rank):
        return emit.call(operator.add, size, cut.size)
    return emit.call(operator.floordiv, emit.call(operator.mul, size, cut.period), cut.owned(rank))


def tells_sizes(layout: Layout) -> bool:
    """Whether each rank can tell the global sizes from its piece; not where some have nothing of an unknown size."""
    if not isinstance(layout, Shard) or cut_of(layout).is_concrete:
        return True
    cut = cut_of(layout)
    return all(cut.owned(rank) for rank in range(cut.num_ranks))


def stand_in(emit: Emitter, local: fx.Node, held: Layout, wanted: Layout, whole: torch.Tensor, rank: int) -> fx.Node:
    """An empty tensor of the dtype of ``local``, which lies in layout ``held``, and of the sizes of layout ``wanted``.

    ``whole``: the fake tensor of the global value. For readers of sizes: what the tensor holds is nothing.
    """
    if not isinstance(wanted, Shard) or cut_of(wanted).is_concrete:
        sizes: list[Any] = list(local_shape(tuple(whole.shape), wanted, rank))
    else:
        sizes = list(whole.shape)
    for dim, size in enumerate(sizes):
        if isinstance(size, torch.SymInt):
            piece = emit.call(aten.sym_size.int, local, dim)
            sizes[dim] = whole_size(emit, piece, held, dim, rank)
            if isinstance(wanted, Shard) and wanted.dim == dim:
                cut = cut_of(wanted)
                share = emit.call(operator.mul, sizes[dim], cut.owned(rank))
                sizes[dim] = emit.call(operator.floordiv, share, cut.period)
    return emit.call(aten.new_empty.default, local, sizes)
