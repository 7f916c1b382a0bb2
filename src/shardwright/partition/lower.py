"""`lower`: spell the compiler's collectives in ``_c10d_functional`` operators.

Those gather, scatter and exchange along dim 0 only and in equal shares, so other dims are moved to the front and back,
and uneven shards are padded to the longest: still one collective each. What is sent has a dtype that every backend
takes (`carry`).
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed._functional_collectives
from torch import fx

from shardwright.collectives import COLLECTIVES, all_gather, all_reduce, reduce_scatter
from shardwright.layout import Cut
from shardwright.partition.carry import form_for, pack, unpack
from shardwright.partition.emit import Emitter, is_dense
from shardwright.program import Program

aten = torch.ops.aten
c10d = torch.ops._c10d_functional


def lower(program: Program, group_names: Mapping[str, str]) -> Program:
    """The same program with ``_c10d_functional`` collectives; changed in place. ``group_names``: axis → group."""
    graph = program.graph
    emit = Emitter(program.owner, program.fake_mode)
    emit.graph = graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in COLLECTIVES:
            emit.meta = {k: v for k, v in node.meta.items() if k not in ("val", "torch_fn", "collective")}
            with graph.inserting_before(node):
                result = _lower_one(emit, node, group_names)
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            if node.name in program.origins:
                program.origins[result.name] = program.origins.pop(node.name)
    return program


def _lower_one(emit: Emitter, node: fx.Node, group_names: Mapping[str, str]) -> fx.Node:
    x: Any = node.args[0]
    is_reduction = node.target in (all_reduce, reduce_scatter)
    form = form_for(node, node.target.__name__, str(node.args[1]) if is_reduction else "")  # type: ignore[union-attr]
    rest: list[Any] = [form.op, *node.args[2:]] if is_reduction else list(node.args[1:])
    sent = _send(emit, node.target, pack(emit, x, form), rest, group_names)
    return unpack(emit, sent, form, x.meta["val"].dtype)


def _send(emit: Emitter, target: Any, x: fx.Node, rest: Sequence[Any], group_names: Mapping[str, str]) -> fx.Node:
    """One collective of ``x``; ``rest``: its arguments after the first."""
    if target is all_reduce:
        op, axis = rest
        return _wait(emit, c10d.all_reduce.default, _dense(emit, x), op, group_names[axis])
    if target is all_gather:
        dim, cut, axis, rank = rest
        return gather(emit, x, dim, cut, group_names[axis], rank)
    if target is reduce_scatter:
        op, dim, cut, axis, rank = rest
        return scatter(emit, x, op, dim, cut, group_names[axis], rank)
    dim, cut, new_dim, _, axis, _ = rest
    return exchange(emit, x, dim, new_dim, cut.num_ranks, group_names[axis])


def gather(emit: Emitter, x: fx.Node, dim: int, cut: Cut, group: str, rank: int) -> fx.Node:
    """One all-gather; uneven shards are padded before and trimmed after."""
    num_ranks = cut.num_ranks
    longest = max(cut.local_sizes(), key=lambda size: size if isinstance(size, int) else 0)
    is_even = not cut.is_concrete or cut.is_even
    padded = x if is_even else _pad(emit, x, dim, longest - cut.local_size(rank))
    whole = _wait(emit, c10d.all_gather_into_tensor.default, _dense(emit, padded), num_ranks, group)
    repeat = _rounds(cut)
    if repeat is not None:
        return _from_front(emit, whole, padded, dim, num_ranks, repeat)
    rows = emit.sizes(padded)[0]
    ends = [_times(emit, rows, owner) for owner in range(num_ranks + 1)]
    pieces = [emit.call(aten.slice.Tensor, whole, 0, ends[owner], ends[owner + 1]) for owner in range(num_ranks)]
    parts = [
        emit.call(aten.slice.Tensor, pieces[owner], dim, offset, offset + length)
        for owner, offset, length in cut.sources()
    ]
    return parts[0] if len(parts) == 1 else emit.call(aten.cat.default, parts, dim)


def scatter(emit: Emitter, x: fx.Node, op: Any, dim: int, cut: Cut, group: str, rank: int) -> fx.Node:
    """One reduce-scatter; uneven shards are padded before and trimmed after."""
    num_ranks = cut.num_ranks
    repeat = _rounds(cut)
    if repeat is not None:
        front = _to_front(emit, x, dim, num_ranks, repeat)
        return _wait(emit, c10d.reduce_scatter_tensor.default, front, op, num_ranks, group)
    longest = max(cut.local_sizes())  # type: ignore[type-var]
    blocks = []
    for owner in range(num_ranks):
        spans = cut.intervals(owner) or [(0, 0)]
        parts = [emit.call(aten.slice.Tensor, x, dim, start, stop) for start, stop in spans]
        block = parts[0] if len(parts) == 1 else emit.call(aten.cat.default, parts, dim)
        blocks.append(_pad(emit, block, dim, longest - cut.local_size(owner)))  # type: ignore[operator]
    front = emit.call(aten.cat.default, blocks, 0)
    mine = _wait(emit, c10d.reduce_scatter_tensor.default, front, op, num_ranks, group)
    return emit.call(aten.slice.Tensor, mine, dim, 0, cut.local_size(rank))


def exchange(emit: Emitter, x: fx.Node, dim: int, new_dim: int, num_ranks: int, group: str) -> fx.Node:
    """One all-to-all that gathers ``dim`` and cuts ``new_dim``, both in equal shares."""
    front = _to_front(emit, x, new_dim, num_ranks, 1)
    splits = [size // num_ranks for size in emit.sizes(front)[:1]] * num_ranks
    swapped = _wait(emit, c10d.all_to_all_single.default, front, splits, splits, group)
    shape = emit.sizes(x)
    shape[new_dim] = shape[new_dim] // num_ranks
    block = _Block(shape)
    return _from_front(emit, swapped, block, dim, num_ranks, 1)


class _Block:
    """Stands for a tensor of known sizes where only the sizes matter."""

    def __init__(self, sizes: Sequence[Any]) -> None:
        self.known = list(sizes)


def _rounds(cut: Cut) -> int | None:
    """How often the ranks take equal turns along the dim; None when their shares are unequal or out of order."""
    if not cut.is_concrete:
        return 1 if cut.repeat == 1 else None
    turns = cut.flat_runs()
    if len({length for _, length in turns}) != 1 or len(turns) % cut.num_ranks:
        return None
    order = [owner for owner, _ in turns]
    rounds = len(turns) // cut.num_ranks
    return rounds if order == list(range(cut.num_ranks)) * rounds else None


def _to_front(emit: Emitter, x: fx.Node, dim: int, num_ranks: int, repeat: int) -> fx.Node:
    """(…, repeat·ranks·m, …) → (ranks·first, …): rank r's share as the r-th block of rows."""
    if dim == 0 and repeat == 1:
        return _dense(emit, x)
    sizes = emit.sizes(x)
    share = _over(emit, sizes[dim], num_ranks * repeat)
    split = emit.call(aten.view.default, _dense(emit, x), [*sizes[:dim], repeat, num_ranks, share, *sizes[dim + 1 :]])
    order = [dim + 1, *range(dim + 1), *range(dim + 2, len(sizes) + 2)]
    moved = _dense(emit, emit.call(aten.permute.default, split, order))
    local = [*sizes[:dim], _times(emit, share, repeat), *sizes[dim + 1 :]]
    return emit.call(aten.view.default, moved, [_times(emit, local[0], num_ranks), *local[1:]])


def _from_front(emit: Emitter, whole: fx.Node, x: fx.Node | _Block, dim: int, num_ranks: int, repeat: int) -> fx.Node:
    """(ranks·first, …) → (…, repeat·ranks·m, …): the inverse of `_to_front`; ``x`` is one rank's block."""
    if dim == 0 and repeat == 1:
        return whole
    sizes = x.known if isinstance(x, _Block) else emit.sizes(x)
    share = _over(emit, sizes[dim], repeat)
    split = emit.call(aten.view.default, whole, [num_ranks, *sizes[:dim], repeat, share, *sizes[dim + 1 :]])
    order = [*range(1, dim + 2), 0, *range(dim + 2, len(sizes) + 2)]
    moved = _dense(emit, emit.call(aten.permute.default, split, order))
    full = [*sizes[:dim], _times(emit, share, num_ranks * repeat), *sizes[dim + 1 :]]
    return emit.call(aten.view.default, moved, full)


def _over(emit: Emitter, size: Any, divisor: int) -> Any:
    return size // divisor if isinstance(size, int) else emit.call(operator.floordiv, size, divisor)


def _times(emit: Emitter, size: Any, factor: int) -> Any:
    return size * factor if isinstance(size, int) else emit.call(operator.mul, size, factor)


def _pad(emit: Emitter, x: fx.Node, dim: int, amount: int) -> fx.Node:
    if amount == 0:
        return x
    ndim = x.meta["val"].dim()
    return emit.call(aten.constant_pad_nd.default, x, [0, 0] * (ndim - 1 - dim) + [0, amount])


def _dense(emit: Emitter, x: Any) -> fx.Node:
    """``x`` itself when it is contiguous, else a contiguous copy: the collectives read raw memory."""
    if is_dense(x):
        return x
    return emit.call(aten.clone.default, x, memory_format=torch.contiguous_format)


def _wait(emit: Emitter, op: Any, *args: Any) -> fx.Node:
    return emit.call(c10d.wait_tensor.default, emit.call(op, *args))
