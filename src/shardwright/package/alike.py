"""Whether two ranks' programs have one graph file, told without writing either: writing takes a hundred times as long.

Ranks with pieces of equal sizes mostly do. Whatever this does not know is another program.
"""

from dataclasses import is_dataclass
from typing import Any

import torch
from torch import fx

from shardwright.program.program import Program, RankConstant, Weight

_COMPARED = (str, bytes, torch.dtype, torch.device, torch.layout, torch.memory_format)


def alike(one: Program, other: Program) -> bool:
    """Whether `graph_bytes` gives the same bytes for both, but for their weights' values. In doubt False."""
    if (one.source, one.inputs, one.outputs) != (other.source, other.inputs, other.outputs):
        return False
    if [*one.weights] != [*other.weights] or len(one.graph.nodes) != len(other.graph.nodes):
        return False
    pairs = zip(one.weights.values(), other.weights.values(), strict=True)
    if not all(_weights_alike(*pair) for pair in pairs):
        return False
    nodes = zip(one.graph.nodes, other.graph.nodes, strict=True)
    return one.graph is other.graph or all(_nodes_alike(*pair) for pair in nodes)


def _weights_alike(one: Weight, other: Weight) -> bool:
    if isinstance(one, RankConstant) and isinstance(other, RankConstant):
        return (one.axis, one.values, one.tensor.dtype) == (other.axis, other.values, other.tensor.dtype)
    layouts = [[layout for layout, _ in weight.cuts] for weight in (one, other)]
    return one.tensor is other.tensor and one.shape == other.shape and layouts[0] == layouts[1]


def _nodes_alike(one: fx.Node, other: fx.Node) -> bool:
    # What a `get_attr` names is a graph of its own.
    if one.op == "get_attr" or (one.op, one.name, one.target) != (other.op, other.name, other.target):
        return False
    return all(
        _values_alike(mine, theirs)
        for mine, theirs in ((one.args, other.args), (one.kwargs, other.kwargs), (one.meta, other.meta))
    )


def _values_alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, fx.Node):
        return one.name == other.name
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_values_alike, one, other))
    if isinstance(one, dict):
        return [*one] == [*other] and all(map(_values_alike, one.values(), other.values()))
    if isinstance(one, torch.Tensor):
        strided = one.layout == other.layout == torch.strided
        return strided and all(map(_values_alike, _facts(one), _facts(other)))
    if isinstance(one, torch.SymInt | torch.SymFloat | torch.SymBool):
        return str(one) == str(other)
    if isinstance(one, int | float):
        # Of what Python calls equal, 0.0 and -0.0 are written otherwise.
        return repr(one) == repr(other)
    return (isinstance(one, _COMPARED) or is_dataclass(one)) and bool(one == other)


def _facts(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tensor.requires_grad, tuple(tensor.shape), tensor.stride()
