"""Buffers written in place: a graph without mutation makes a new buffer and copies it over the old one at its end.

Of a key-value cache that is two copies of everything to write one token. Where nothing reads the old buffer any more,
the operator that makes the new one writes to the old one itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from shardwright.program.collectives import lowered_name
from shardwright.program.nodes import held_at
from shardwright.program.torch_private import pytree, schema_of

aten = torch.ops.aten

_IN_PLACE: dict[Any, Any] = {
    aten.index_add.default: aten.index_add_.default,
    aten.index_copy.default: aten.index_copy_.default,
    aten.index_fill.int_Scalar: aten.index_fill_.int_Scalar,
    aten.index_put.default: aten.index_put_.default,
    aten.masked_scatter.default: aten.masked_scatter_.default,
    aten.scatter.src: aten.scatter_.src,
    aten.scatter.value: aten.scatter_.value,
    aten.scatter_add.default: aten.scatter_add_.default,
}
"""Operators that write to a part of what they are given, and their forms that do so in place."""


def write_in_place(module: fx.GraphModule) -> fx.GraphModule:
    """A module whose buffers are written in place where that gives the same numbers; ``module``, changed.

    An error in the middle of a call then leaves them partly written.
    """
    graph: Any = module.graph
    order = {node: place for place, node in enumerate(graph.nodes)}
    for copy in [node for node in graph.nodes if node.target is aten.copy_.default]:
        buffer, end = copy.args[0], copy
        writes = _writes(buffer, copy, order)
        if writes and not _is_returned(writes[0]) and _is_held_once(graph, module, buffer):
            for write in writes:
                write.target = _IN_PLACE[write.target]
            while end is not writes[0]:
                done, end = end, end.args[-1]
                graph.erase_node(done)
    if len(graph.nodes) < len(order):
        module.recompile()
    return module


def _writes(buffer: Any, copy: fx.Node, order: Mapping[fx.Node, int]) -> list[fx.Node]:
    """The operators that make the new buffer of the old one, last first; empty where the old one is read later."""
    if getattr(buffer, "op", "") not in ("get_attr", "placeholder"):
        return []
    reader, made = copy, _operand(copy, 1)
    while getattr(made, "target", None) is aten.detach.default and set(made.users) == {reader}:
        reader, made = made, _operand(made, 0)
    found: list[fx.Node] = []
    while made is not buffer:
        known = getattr(made, "target", None) in _IN_PLACE
        if not known or (found and not _is_done(made, [reader], order)):
            return []
        found.append(made)
        reader, made = made, _operand(made, 0)
    return found if found and _is_done(buffer, [reader, copy], order) else []


def _operand(node: fx.Node, position: int) -> Any:
    return node.args[position]


def _is_done(value: fx.Node, writers: Sequence[fx.Node], order: Mapping[fx.Node, int]) -> bool:
    """Whether all who read a value besides ``writers`` are done with it before the first of these, which reads it once.

    One that reads it as what is written, too (a buffer whose rows move), cannot write over it.
    """
    first = writers[0]
    if sum(one is value for one in pytree.tree_leaves((first.args, first.kwargs))) != 1:
        return False
    others = [user for user in value.users if user not in writers]
    return all(_end(user, order) < order[first] and not (user.users and _may_be_view(user)) for user in others)


def _end(reader: fx.Node, order: Mapping[fx.Node, int]) -> int:
    """The place where a node is done with what it reads: a collective, where it is waited for."""
    if lowered_name(reader) in ("", "wait_tensor"):
        return order[reader]
    return max((order[wait] for wait in reader.users), default=len(order))


def _is_returned(made: fx.Node) -> bool:
    """Whether a caller may get the memory of a value: an output that the next call would change."""
    waiting, seen = [made], {made}
    while waiting:
        for user in waiting.pop().users:
            if user.op == "output":
                return True
            if user not in seen and _may_be_view(user):
                seen.add(user)
                waiting.append(user)
    return False


def _may_be_view(node: fx.Node) -> bool:
    schema = schema_of(node.target)
    # Functions without a schema take results apart, or run graphs; `_unsafe_view` is a view that does not say so.
    if schema is None or schema.name == "aten::_unsafe_view":
        return True
    return any(result.alias_info is not None for result in schema.returns)


def _is_held_once(graph: fx.Graph, module: fx.GraphModule, buffer: fx.Node) -> bool:
    """Whether no other node of the graph stands for the same memory."""
    if buffer.op == "placeholder":
        return True
    mine = held_at(module, str(buffer.target)).untyped_storage().data_ptr()
    return sum(tensor.untyped_storage().data_ptr() == mine for tensor in _tensors(graph, module)) == 1


def _tensors(graph: fx.Graph, module: fx.GraphModule) -> Iterator[torch.Tensor]:
    held = (held_at(module, str(node.target)) for node in graph.nodes if node.op == "get_attr" and node.users)
    return (value for value in held if isinstance(value, torch.Tensor))
