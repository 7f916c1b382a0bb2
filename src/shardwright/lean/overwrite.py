"""`reduce_in_place`: an all-reduce whose operand nobody else reads writes to it.

torch's ``all_reduce`` copies its operand first. A program that is exported writes to nothing, so this is done to the
module that runs it; compilers that take the program do so themselves.
"""

from typing import Any

import torch
from torch import fx

from shardwright.lean.sharing import is_cast, is_fresh, uncertain_layouts

_REDUCE = torch.ops._c10d_functional.all_reduce.default
_REDUCE_IN_PLACE = torch.ops._c10d_functional.all_reduce_.default


def reduce_in_place(module: fx.GraphModule) -> int:
    """Change every such all-reduce of a module; how many there are.

    Meant are operands that an operator has made for the all-reduce alone, contiguous whatever it was given.
    """
    uncertain = uncertain_layouts(module.graph)
    found = [node for node in module.graph.nodes if node.target is _REDUCE and _dies(node.args[0], uncertain)]
    for node in found:
        node.target = reduce_dying
    if found:
        module.recompile()
    return len(found)


def reduce_dying(operand: torch.Tensor, op: str, group: str) -> torch.Tensor:
    """An all-reduce that writes to its operand. Compilers trace none that does: for them it is one that copies."""
    reduce = _REDUCE if torch.compiler.is_compiling() else _REDUCE_IN_PLACE
    return reduce(operand, op, group)


def _dies(operand: Any, uncertain: set[fx.Node]) -> bool:
    # A cast copies nothing once the module was moved to the dtype that it casts to.
    is_made = is_fresh(operand) and not is_cast(operand)
    is_own = len(operand.users) == 1 and is_made and operand not in uncertain
    return is_own and operand.meta["val"].is_contiguous()
