"""`lower`: write the compiler's collectives as ``_c10d_functional`` operators.

Those gather, scatter and exchange along dim 0 only and in equal shares, so other dims are moved to the front and back,
and uneven shards are padded to the longest: still one collective each. What is sent has a dtype that every backend
takes (`carry`). Values that are sent as one message, which stand side by side, become one collective (`message`).

Each kind is lowered by a generator that yields what is to be sent, a `Sent`, and is given what came of it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from shardwright.layout.cut import Cut
from shardwright.partition.carry import form_for, pack, unpack
from shardwright.partition.emit import Emitter
from shardwright.partition.message import UNPACKS, Lowering, Sent, c10d, send
from shardwright.partition.periods import contiguous, join_period, over, period_dim, period_of, split_period, times
from shardwright.partition.templates import Templates
from shardwright.program.collectives import COLLECTIVES, all_gather, all_reduce, kind_of, message_of, reduce_scatter
from shardwright.program.legal import Stage, check
from shardwright.program.nodes import graphs_of, val_of
from shardwright.program.program import Program

aten = torch.ops.aten


def lower(program: Program, group_names: Mapping[str, str], *, by_parts: bool = False) -> Program:
    """The program, changed: ``_c10d_functional`` collectives in place of the compiler's.

    ``group_names``: axis → group. ``by_parts``: equal pieces along other dims than the first are split and joined,
    rather than viewed and permuted.
    """
    fake_mode = program.fake_mode
    for graph in graphs_of(program.graph):
        _lower_graph(program, graph, fake_mode, group_names, by_parts=by_parts)
    return check(program, Stage.LOWERED)


def _lower_graph(
    program: Program, graph: fx.Graph, fake_mode: Any, group_names: Mapping[str, str], *, by_parts: bool
) -> None:
    owner: Any = program.owner if graph is program.graph else graph.owning_module
    emit = Emitter(owner, fake_mode)
    emit.graph = graph
    templates = Templates(emit)
    for nodes in _messages(graph):
        write = partial(_lower_all, emit, nodes, group_names, by_parts=by_parts)
        with graph.inserting_before(nodes[0]):
            if len(nodes) > 1:
                results = write()
            else:
                (node,) = nodes
                operand: Any = node.args[0]
                emit.meta = _kept_meta(node)
                results = templates.follow((node.target, *node.args[1:]), [operand], "", write)
        for node, result in zip(nodes, results, strict=True):
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            if graph is program.graph and node.name in program.origins:
                program.origins[result.name] = program.origins.pop(node.name)
    if isinstance(owner, fx.GraphModule):
        owner.recompile()


def _messages(graph: fx.Graph) -> list[list[fx.Node]]:
    """The collectives of a graph, those of one message together."""
    found: list[list[fx.Node]] = []
    last = 0
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in COLLECTIVES:
            continue
        number = message_of(node)
        if number and number == last:
            found[-1].append(node)
        else:
            found.append([node])
        last = number
    return found


def check_lowering(program: Program, group_names: Mapping[str, str]) -> None:
    """Raise what `lower` would raise, of each kind of collective in a program that stays as it is."""
    emit = Emitter(program.owner, program.fake_mode)
    for node in program.placeholders():
        # What is not known of sizes is read off the inputs that have them.
        if emit.fact(val_of(node)) is None:
            emit.graph.placeholder(node.name).meta = node.meta
    seen = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target not in COLLECTIVES:
            continue
        x, *rest = node.args
        val = x.meta["val"]
        kind = (node.target, tuple(map(str, val.shape)), tuple(map(str, val.stride())), val.dtype, *rest)
        if kind not in seen:
            seen.add(kind)
            given = emit.graph.placeholder("given")
            given.meta = x.meta
            alike = emit.graph.call_function(node.target, (given, *rest))
            alike.meta = node.meta
            _lower_all(emit, [alike], group_names)


def _lower_all(
    emit: Emitter, nodes: Sequence[fx.Node], group_names: Mapping[str, str], *, by_parts: bool = False
) -> list[fx.Node]:
    """The values of collectives that are sent as one; nodes are written under the metadata of the collective."""
    runs = [_lower_one(emit, node, group_names, by_parts=by_parts) for node in nodes]
    sent = []
    for node, run in zip(nodes, runs, strict=True):
        emit.meta = _kept_meta(node)
        sent.append(next(run))
    emit.meta = _kept_meta(nodes[0])
    results = []
    for node, run, given in zip(nodes, runs, send(emit, sent), strict=True):
        emit.meta = {**_kept_meta(node), UNPACKS: True}
        try:
            run.send(given)
        except StopIteration as stop:
            results.append(stop.value)
    assert len(results) == len(nodes), "a collective is sent once"
    return results


def _kept_meta(node: fx.Node) -> dict[str, Any]:
    return {key: value for key, value in node.meta.items() if key not in ("val", "torch_fn", "collective")}


def _lower_one(emit: Emitter, node: fx.Node, group_names: Mapping[str, str], *, by_parts: bool) -> Lowering:
    x: Any = node.args[0]
    is_reduction = node.target in (all_reduce, reduce_scatter)
    form = form_for(node, kind_of(node.target), str(node.args[1]) if is_reduction else "")
    rest: list[Any] = [form.op, *node.args[2:]] if is_reduction else list(node.args[1:])
    packed = pack(emit, x, form)
    whole = yield from _lower_kind(emit, node.target, packed, rest, group_names, by_parts=by_parts)
    return unpack(emit, whole, form, x.meta["val"].dtype)


def _lower_kind(
    emit: Emitter, target: Any, x: fx.Node, rest: Sequence[Any], group_names: Mapping[str, str], *, by_parts: bool
) -> Lowering:
    """One collective of ``x``; ``rest``: its arguments after the first."""
    if target is all_reduce:
        op, axis = rest
        return (yield Sent(c10d.all_reduce.default, contiguous(emit, x), (op, group_names[axis])))
    if target is all_gather:
        dim, cut, axis, rank = rest
        return (yield from lower_all_gather(emit, x, dim, cut, group_names[axis], rank, by_parts=by_parts))
    if target is reduce_scatter:
        op, dim, cut, axis, rank = rest
        group = group_names[axis]
        return (yield from lower_reduce_scatter(emit, x, op, dim, cut, group, rank, by_parts=by_parts))
    dim, cut, new_dim, _, axis, _ = rest
    return (yield from lower_all_to_all(emit, x, dim, new_dim, cut.num_ranks, group_names[axis]))


def lower_all_gather(
    emit: Emitter, x: fx.Node, dim: int, cut: Cut, group: str, rank: int, *, by_parts: bool = False
) -> Lowering:
    """One all-gather; uneven shards are padded before and trimmed after."""
    num_ranks, repeat = cut.num_ranks, _rounds(cut)
    if repeat is None and not cut.is_concrete:
        inside = split_period(emit, x, dim, cut, cut.owned(rank))
        gathered = yield from lower_all_gather(emit, inside, period_dim(dim, cut), period_of(cut), group, rank)
        return join_period(emit, gathered, dim, cut)
    padded = x if cut.is_even else _pad(emit, x, dim, max(cut.local_sizes()) - cut.local_size(rank))  # type: ignore[type-var]
    whole = yield Sent(c10d.all_gather_into_tensor.default, contiguous(emit, padded), (num_ranks, group))
    if by_parts and repeat == 1 and dim > 0 and _is_number(whole, 0):
        parts = emit.open(emit.call(aten.split.Tensor, whole, emit.sizes(padded)[0]))
        return emit.call(aten.cat.default, parts, dim)
    if repeat is not None:
        return _from_front(emit, whole, emit.sizes(padded), dim, num_ranks, repeat)
    rows = emit.sizes(padded)[0]
    ends = [times(emit, rows, owner) for owner in range(num_ranks + 1)]
    pieces = [emit.call(aten.slice.Tensor, whole, 0, ends[owner], ends[owner + 1]) for owner in range(num_ranks)]
    parts = [
        emit.call(aten.slice.Tensor, pieces[owner], dim, offset, offset + length)
        for owner, offset, length in cut.sources()
    ]
    return parts[0] if len(parts) == 1 else emit.call(aten.cat.default, parts, dim)


def lower_reduce_scatter(
    emit: Emitter, x: fx.Node, op: Any, dim: int, cut: Cut, group: str, rank: int, *, by_parts: bool = False
) -> Lowering:
    """One reduce-scatter; uneven shards are padded before and trimmed after."""
    num_ranks, repeat = cut.num_ranks, _rounds(cut)
    if repeat is None and not cut.is_concrete:
        inside = split_period(emit, x, dim, cut, cut.period)
        mine = yield from lower_reduce_scatter(emit, inside, op, period_dim(dim, cut), period_of(cut), group, rank)
        return join_period(emit, mine, dim, cut)
    if repeat is not None:
        if by_parts and repeat == 1 and dim > 0 and _is_number(x, dim):
            parts = emit.open(emit.call(aten.split.Tensor, x, emit.sizes(x)[dim] // num_ranks, dim))
            front = emit.call(aten.cat.default, parts)
        else:
            front = _to_front(emit, x, dim, num_ranks, repeat)
        return (yield Sent(c10d.reduce_scatter_tensor.default, front, (op, num_ranks, group)))
    longest = max(cut.local_sizes())  # type: ignore[type-var]
    blocks = []
    for owner in range(num_ranks):
        spans = cut.intervals(owner) or [(0, 0)]
        parts = [emit.call(aten.slice.Tensor, x, dim, start, stop) for start, stop in spans]
        block = parts[0] if len(parts) == 1 else emit.call(aten.cat.default, parts, dim)
        blocks.append(_pad(emit, block, dim, longest - cut.local_size(owner)))  # type: ignore[operator]
    front = emit.call(aten.cat.default, blocks, 0)
    mine = yield Sent(c10d.reduce_scatter_tensor.default, front, (op, num_ranks, group))
    return emit.call(aten.slice.Tensor, mine, dim, 0, cut.local_size(rank))


def lower_all_to_all(emit: Emitter, x: fx.Node, dim: int, new_dim: int, num_ranks: int, group: str) -> Lowering:
    """One all-to-all that gathers ``dim`` and cuts ``new_dim``, both in equal shares."""
    block = emit.sizes(x)
    front = _to_front(emit, x, new_dim, num_ranks, 1)
    block[new_dim] = over(emit, block[new_dim], num_ranks)
    split_sizes = [block[0]] * num_ranks
    swapped = yield Sent(c10d.all_to_all_single.default, front, (split_sizes, split_sizes, group))
    return _from_front(emit, swapped, block, dim, num_ranks, 1)


def _rounds(cut: Cut) -> int | None:
    """How often the ranks take equal turns along the dim; None when their shares are unequal or out of order."""
    if not cut.is_concrete:
        return 1 if cut.is_even and cut.is_chunked else None
    turns = cut.flat_runs()
    if len({length for _, length in turns}) != 1 or len(turns) % cut.num_ranks:
        return None
    order = [owner for owner, _ in turns]
    rounds = len(turns) // cut.num_ranks
    return rounds if order == list(range(cut.num_ranks)) * rounds else None


def _to_front(emit: Emitter, x: fx.Node, dim: int, num_ranks: int, repeat: int) -> fx.Node:
    """(…, repeat·ranks·m, …) → (ranks·first, …): rank r's share as the r-th block of rows."""
    if dim == 0 and repeat == 1:
        return contiguous(emit, x)
    sizes = emit.sizes(x)
    share = over(emit, sizes[dim], num_ranks * repeat)
    split = emit.call(
        aten.view.default, contiguous(emit, x), [*sizes[:dim], repeat, num_ranks, share, *sizes[dim + 1 :]]
    )
    order = [dim + 1, *range(dim + 1), *range(dim + 2, len(sizes) + 2)]
    moved = contiguous(emit, emit.call(aten.permute.default, split, order))
    local = [*sizes[:dim], times(emit, share, repeat), *sizes[dim + 1 :]]
    return emit.call(aten.view.default, moved, [times(emit, local[0], num_ranks), *local[1:]])


def _from_front(emit: Emitter, whole: fx.Node, sizes: Sequence[Any], dim: int, num_ranks: int, repeat: int) -> fx.Node:
    """(ranks·first, …) → (…, repeat·ranks·m, …): the inverse of `_to_front`; ``sizes``: of one rank's block."""
    if dim == 0 and repeat == 1:
        return whole
    share = over(emit, sizes[dim], repeat)
    split = emit.call(aten.view.default, whole, [num_ranks, *sizes[:dim], repeat, share, *sizes[dim + 1 :]])
    order = [*range(1, dim + 2), 0, *range(dim + 2, len(sizes) + 2)]
    moved = contiguous(emit, emit.call(aten.permute.default, split, order))
    full = [*sizes[:dim], times(emit, share, num_ranks * repeat), *sizes[dim + 1 :]]
    return emit.call(aten.view.default, moved, full)


def _is_number(x: fx.Node, dim: int) -> bool:
    """Whether a size is known: what is split in parts of a size that may change has no certain number of parts."""
    return type(x.meta["val"].shape[dim]) is int


def _pad(emit: Emitter, x: fx.Node, dim: int, amount: int) -> fx.Node:
    if amount == 0:
        return x
    ndim = x.meta["val"].dim()
    return emit.call(aten.constant_pad_nd.default, x, [0, 0] * (ndim - 1 - dim) + [0, amount])
