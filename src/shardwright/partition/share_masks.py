"""Masks that several attentions read, turned once into what is added to the scores.

Attention turns a mask of booleans into numbers, 0 where it allows and minus infinity where it does not. Where thirty
layers read one mask, that is done thirty times for one token.
"""

from collections.abc import Mapping

import torch
from torch import fx

from shardwright.partition.emit import Emitter
from shardwright.program.duplicate import duplicate
from shardwright.program.legal import Stage, check
from shardwright.program.program import Program
from shardwright.rules.call import bind_arguments

aten = torch.ops.aten

_ATTENTION = aten.scaled_dot_product_attention.default


def share_masks(program: Program) -> Program:
    """The program with every mask of booleans that several attentions read as one that is added.

    Itself where there is none.
    """
    if not any(len(readers) > 1 for readers in _readers(program.graph).values()):
        return program
    made = duplicate(program)
    emit = Emitter(made.owner, program.fake_mode)
    emit.graph = made.graph
    for (mask, dtype), readers in _readers(made.graph).items():
        if len(readers) > 1:
            emit.meta = {key: value for key, value in mask.meta.items() if key not in ("val", "torch_fn")}
            with made.graph.inserting_before(readers[0]):
                # The logarithms of one and nothing.
                numbers = emit.call(aten._to_copy.default, mask, dtype=dtype)
                added = emit.call(aten.log.default, numbers)
            for reader in readers:
                reader.replace_input_with(mask, added)
    return check(made, Stage.MERGED)


def _readers(graph: fx.Graph) -> Mapping[tuple[fx.Node, torch.dtype], list[fx.Node]]:
    """The attentions that read each mask of booleans, by the dtype that they compute in."""
    found: dict[tuple[fx.Node, torch.dtype], list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target is _ATTENTION:
            given = bind_arguments(node.target, node.args, node.kwargs)
            mask = given["attn_mask"]
            if mask is not None and mask.meta["val"].dtype == torch.bool:
                found.setdefault((mask, given["query"].meta["val"].dtype), []).append(node)
    return found
