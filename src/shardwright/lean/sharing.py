"""Which values of a graph may share memory, and whose layout in memory is as their metadata says."""

from functools import lru_cache
from typing import Any

import torch
from torch import fx

from shardwright.partition.memory import ADDRESSING
from shardwright.program.torch_private import HigherOrderOperator, OpOverload, may_decompose, schema_of

aten = torch.ops.aten

_WAIT = torch.ops._c10d_functional.wait_tensor.default

_SILENT = (_WAIT, aten._unsafe_view.default)
"""Operators that give their operand's memory though their schemas do not say so."""

_DENSE = frozenset(
    {
        _WAIT,
        aten.addmm.default,
        aten.baddbmm.default,
        aten.bmm.default,
        aten.embedding.default,
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
    }
)
"""Operators whose results are contiguous, however their operands lie."""

_BY_KERNEL = ("scaled_dot_product", "conv", "fft", "linalg", "_native", "cudnn", "miopen", "mkldnn")
"""Parts of the names of operators whose kernel, chosen as the program runs, decides how their results lie."""


def may_alias(target: Any) -> bool:
    """Whether the result of a call may share memory with an operand."""
    schema = schema_of(target)
    if schema is None or target in _SILENT or not isinstance(target, OpOverload):
        return True
    if any(result.alias_info is not None for result in schema.returns) or may_decompose(target):
        return True
    return target.namespace not in ("aten", "_c10d_functional")


_CASTS = frozenset({aten.to.device, aten.to.dtype, aten.to.dtype_layout, aten.to.other, aten.type_as.default})


def is_fresh(node: fx.Node) -> bool:
    """Whether a call gives one tensor with memory of its own."""
    val = node.meta.get("val")
    if node.op != "call_function" or not isinstance(val, torch.Tensor) or node.target is _WAIT:
        return False
    return node.target in _DENSE or not may_alias(node.target) or is_cast(node)


def is_cast(node: fx.Node) -> bool:
    """Whether a call gives a tensor of another dtype than its operand, which is a copy while both stay as exported."""
    operand = node.args[0] if node.args else None
    val = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    return node.target in _CASTS and isinstance(val, torch.Tensor) and val.dtype != node.meta["val"].dtype


def escapes(node: fx.Node) -> bool:
    """Whether memory that a node's value shares may reach what outlives a call, or what goes by addresses.

    That is: outputs, subgraphs, operators of unknown libraries, ``as_strided``. Products have memory of their own.
    """
    waiting, seen = [node], {node}
    while waiting:
        for user in waiting.pop().users:
            if user.op == "output" or _reads_memory(user.target):
                return True
            is_product = user.target in _DENSE and user.target is not _WAIT
            if may_alias(user.target) and not is_product and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def uncertain_layouts(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values may lie in memory in another way than their metadata has it.

    Callers give tensors that lie as they like; some kernels choose, and what is computed of those follows them.
    In the graph of a module, weights are attributes, and lie as they were loaded.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function":
            follows = node.target not in _DENSE and any(source in found for source in node.all_input_nodes)
            is_open = follows or _is_by_kernel(node.target)
        else:
            is_open = node.op == "placeholder"
        if is_open:
            found.add(node)
    return found


@lru_cache(maxsize=4096)
def _reads_memory(target: Any) -> bool:
    """Whether an operator may tell a tensor from an equal one, by its address or by writing to it."""
    schema = schema_of(target)
    if schema is None:
        return isinstance(target, HigherOrderOperator)
    return schema.is_mutable or schema.name in ADDRESSING or not schema.name.startswith(_KNOWN)


_KNOWN = ("aten::", "_c10d_functional::", "prims::")


@lru_cache(maxsize=4096)
def _is_by_kernel(target: Any) -> bool:
    schema = schema_of(target)
    if schema is None:
        return isinstance(target, HigherOrderOperator)
    return not schema.name.startswith(_KNOWN) or any(part in schema.name for part in _BY_KERNEL)
