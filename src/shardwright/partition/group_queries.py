"""Attention of grouped heads without repeating keys and values.

Models repeat every key-value head for the query heads of its group: over a long cache that copies far more than the
step computes. Instead the queries of a group become rows of one head, which read its keys once::

    queries (batch, groups·repeats, new, d)  →  (batch, groups, repeats·new, d)
    mask (batch, 1 or groups·repeats, new, seen)  →  (batch, 1 or groups, repeats·new, seen)

All ranks' heads stay as they were cut: the pass runs on one rank's program, whatever its share of a group. It takes
repeats as they are spelled in `_repeated`, and the operator's own ``enable_gqa``, whose CPU kernel goes head by head.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from shardwright.partition.emit import Emitter
from shardwright.partition.memory import strides, with_strides_of
from shardwright.program.duplicate import duplicate
from shardwright.program.legal import Stage, check
from shardwright.program.program import Program
from shardwright.rules.call import bind_arguments, symbolic_size

aten = torch.ops.aten

_ATTENTION = aten.scaled_dot_product_attention.default
_VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
_COPIES = (aten.clone.default, aten.contiguous.default)


def group_queries(program: Program) -> Program:
    """The program with every attention over repeated keys and values as one over what is repeated.

    Itself where there is none.
    """
    if not any(node.target is _ATTENTION and _grouped(node) is not None for node in program.graph.nodes):
        return program
    made = duplicate(program)
    emit = Emitter(made.owner, program.fake_mode)
    emit.graph = made.graph
    rows: dict[Any, fx.Node] = {}
    for node in [node for node in made.graph.nodes if node.target is _ATTENTION]:
        found = _grouped(node)
        if found is None:
            continue
        emit.meta = {k: v for k, v in node.meta.items() if k not in ("val", "torch_fn")}
        with made.graph.inserting_before(node):
            result = found.write(emit, rows)
        node.replace_all_uses_with(result)
        if node.name in made.origins:
            made.origins[result.name] = made.origins.pop(node.name)
        for unused in (node, *found.repeats):
            if not unused.users:
                made.graph.erase_node(unused)
                made.origins.pop(unused.name, None)
    return check(made, Stage.MERGED)


@dataclass(frozen=True)
class _Grouped:
    """One attention and what its keys and values repeat. ``repeats``: the nodes that do so, last first."""

    node: fx.Node
    queries: fx.Node
    keys: fx.Node
    values: fx.Node
    mask: fx.Node | None
    scale: Any
    num_repeats: int
    repeats: list[fx.Node] = field(default_factory=list)

    def write(self, emit: Emitter, rows: dict[Any, fx.Node]) -> fx.Node:
        """The attention over rows, its result as the original's; ``rows``: masks in that form, shared by layers."""
        batch, heads, new, dim = emit.sizes(self.queries)
        groups = self.keys.meta["val"].shape[1]
        queries = emit.call(aten.reshape.default, self.queries, [batch, groups, -1, dim])
        given: list[Any] = [queries, self.keys, self.values]
        if self.mask is not None:
            # A mask of every head is made as wide as the queries are many.
            key = (self.mask, self.num_repeats, symbolic_size(self.queries.meta["val"].shape[2]))
            if key not in rows:
                rows[key] = self._mask_rows(emit, self.mask)
            given.append(rows[key])
        found = emit.call(_ATTENTION, *given, scale=self.scale)
        value_dim = self.values.meta["val"].shape[-1]
        apart = emit.call(aten.view.default, found, [batch, groups, self.num_repeats, new, value_dim])
        return self._as_before(emit, apart, [batch, heads, new, value_dim])

    def _mask_rows(self, emit: Emitter, mask: fx.Node) -> fx.Node:
        """A mask that allows the same to the rows as to their queries."""
        val = mask.meta["val"]
        *batch, new, seen = emit.sizes(mask)
        if val.dim() > 2 and not _is_one(val.shape[-3]):
            *batch, heads = batch
            wide = emit.call(aten.expand.default, mask, [*batch, heads, emit.sizes(self.queries)[2], seen])
            return emit.call(aten.reshape.default, wide, [*batch, heads // self.num_repeats, -1, seen])
        if _is_one(val.shape[-2]):
            return mask
        each = emit.call(aten.unsqueeze.default, mask, -3)
        wide = emit.call(aten.expand.default, each, [*batch, self.num_repeats, new, seen])
        return emit.call(aten.reshape.default, wide, [*batch, -1, seen])

    def _as_before(self, emit: Emitter, apart: fx.Node, sizes: list[Any]) -> fx.Node:
        """(batch, groups, repeats, new, d) → (batch, heads, new, d), in memory as the original: views follow it."""
        batch, heads, new, dim = sizes
        whole = self.node.meta["val"]
        other = emit.fake([whole.shape[i] for i in (0, 2, 1, 3)], whole.dtype, whole.device).transpose(1, 2)
        if strides(whole) != strides(other):
            return with_strides_of(emit, emit.call(aten.reshape.default, apart, sizes), whole, self.node)
        moved = emit.call(aten.permute.default, apart, [0, 3, 1, 2, 4])
        dense = emit.call(aten.clone.default, moved, memory_format=torch.contiguous_format)
        flat = emit.call(aten.view.default, dense, [batch, new, heads, dim])
        return emit.call(aten.transpose.int, flat, 1, 2)


_Repeated = tuple[fx.Node, int, list[fx.Node]]
"""What is repeated, how often, and the nodes that do it, last first."""


def _grouped(node: fx.Node) -> _Grouped | None:
    """What an attention repeats; None where it repeats nothing, or where rows could not stand for all it does."""
    given = bind_arguments(node.target, node.args, node.kwargs)
    queries, keys, values = (given[name] for name in ("query", "key", "value"))
    if given["is_causal"] or given["dropout_p"] or queries.meta["val"].dim() != 4:
        return None
    heads = queries.meta["val"].shape[1]
    if isinstance(heads, int) and heads == 0:
        # A rank without a head has no rows, and their number follows from nothing.
        return None
    first, second = (_repeated(one, heads, own=given["enable_gqa"]) for one in (keys, values))
    if first is None or second is None or first[1] != second[1] or not (first[1] > 1 or first[2]):
        return None
    nodes = list(dict.fromkeys([*first[2], *second[2]]))
    return _Grouped(node, queries, first[0], second[0], given["attn_mask"], given["scale"], first[1], nodes)


def _repeated(node: fx.Node, heads: Any, *, own: bool) -> _Repeated | None:
    """What keys or values repeat to have so many heads. ``own``: the operator repeats them itself."""
    found = node.meta["val"].shape[1]
    if not isinstance(heads, int) or not isinstance(found, int) or node.meta["val"].dim() != 4:
        return None
    if found != heads:
        return (node, heads // found, []) if own and found and heads % found == 0 else None
    if node.target is aten.repeat_interleave.self_int:
        given = bind_arguments(node.target, node.args, node.kwargs)
        if given["dim"] in (1, -3) and isinstance(given["repeats"], int):
            return given["self"], given["repeats"], [node]
    return _expanded(node) or (node, 1, [])


def _expanded(node: fx.Node) -> _Repeated | None:
    """The base of ``x[:, :, None].expand(…).reshape(…)``: its heads, each so many times in a row."""
    nodes = [node]
    if node.target in _VIEWS and _above(node).target in _COPIES:
        nodes.append(_above(node))
    wide = _above(nodes[-1])
    if node.target not in _VIEWS or wide.target is not aten.expand.default:
        return None
    narrow = _above(wide)
    if narrow.target is not aten.unsqueeze.default and narrow.target not in _VIEWS:
        return None
    if len(_sizes(wide)) != 5:
        return None
    batch, groups, repeats, *rest = _sizes(wide)
    is_merged = _sizes(node) == (batch, groups * repeats, *rest)
    is_base = _sizes(narrow) == (batch, groups, 1, *rest) and _sizes(_above(narrow)) == (batch, groups, *rest)
    if not isinstance(repeats, int) or not is_merged or not is_base:
        return None
    return _above(narrow), repeats, [*nodes, wide, narrow]


def _is_one(size: Any) -> bool:
    """Whether a size is 1 in every call."""
    return isinstance(size, int) and size == 1


def _above(node: fx.Node) -> fx.Node:
    """The first operand of a call; the node itself where there is none."""
    first = node.args[0] if node.args else node
    return first if isinstance(first, fx.Node) else node


def _sizes(node: fx.Node) -> tuple[Any, ...]:
    return tuple(symbolic_size(size) for size in node.meta["val"].shape)
