"""One query over a cache in 16 bits, on a CPU, is given a second one: the kernel is made for blocks of queries.

Torch's CPU kernel for attention (2.13) takes three to six times as long for one query of a head as for two, in bfloat16
over a thousand keys: 894 µs and 266 µs for 8 heads. So where the number of new tokens may be one, the first query is
written once more after the last, and what comes of it is left out. Of many tokens that is one more.
"""

from typing import Any

import torch
from torch import fx

from shardwright.partition.emit import Emitter
from shardwright.partition.memory import with_strides_of
from shardwright.program.duplicate import duplicate
from shardwright.program.legal import Stage, check
from shardwright.program.program import Program
from shardwright.rules.call import bind_arguments, symbolic_size

aten = torch.ops.aten

_ATTENTION = aten.scaled_dot_product_attention.default
_SHORT = (torch.bfloat16, torch.float16)


def pair_queries(program: Program) -> Program:
    """The program with a second query in every attention that may have one; itself where there is none."""
    if not any(map(_may_have_one, program.graph.nodes)):
        return program
    made = duplicate(program)
    emit = Emitter(made.owner, program.fake_mode)
    emit.graph = made.graph
    longer: dict[fx.Node, fx.Node] = {}
    for node in [node for node in made.graph.nodes if _may_have_one(node)]:
        emit.meta = {k: v for k, v in node.meta.items() if k not in ("val", "torch_fn")}
        with made.graph.inserting_before(node):
            result = _paired(emit, node, longer)
        node.replace_all_uses_with(result)
        made.graph.erase_node(node)
        if node.name in made.origins:
            made.origins[result.name] = made.origins.pop(node.name)
    return check(made, Stage.MERGED)


def _may_have_one(node: fx.Node) -> bool:
    """Whether an attention in 16 bits on a CPU has one query a head in some call, over keys of another number."""
    if node.target is not _ATTENTION:
        return False
    given = bind_arguments(node.target, node.args, node.kwargs)
    queries, keys = given["query"].meta["val"], given["key"].meta["val"]
    if given["is_causal"] or given["dropout_p"] or queries.dtype not in _SHORT or queries.device.type != "cpu":
        return False
    num, num_keys = symbolic_size(queries.shape[-2]), symbolic_size(keys.shape[-2])
    return num == 1 if isinstance(num, int) else num.is_Symbol and num != num_keys


def _paired(emit: Emitter, node: fx.Node, longer: dict[fx.Node, fx.Node]) -> fx.Node:
    """The attention with its first query once more, its result as before; ``longer``: masks, shared by layers."""
    given = bind_arguments(node.target, node.args, node.kwargs)
    mask = given["attn_mask"]
    if mask is not None and not _is_for_all(mask):
        if mask not in longer:
            longer[mask] = _with_first_again(emit, mask)
        mask = longer[mask]
    queries = _with_first_again(emit, given["query"])
    how = {"scale": given["scale"], "enable_gqa": given["enable_gqa"]}
    found = emit.call(_ATTENTION, queries, given["key"], given["value"], mask, **how)
    rows = emit.sizes(given["query"])[-2]
    kept = emit.call(aten.slice.Tensor, found, found.meta["val"].dim() - 2, 0, rows)
    return with_strides_of(emit, kept, node.meta["val"], node)


def _with_first_again(emit: Emitter, x: fx.Node) -> fx.Node:
    dim: int = x.meta["val"].dim() - 2
    return emit.call(aten.cat.default, [x, emit.call(aten.slice.Tensor, x, dim, 0, 1)], dim)


def _is_for_all(mask: fx.Node) -> bool:
    """Whether a mask is the same for all queries, however many there are."""
    val: Any = mask.meta["val"]
    return val.dim() < 2 or (isinstance(val.shape[-2], int) and val.shape[-2] == 1)
