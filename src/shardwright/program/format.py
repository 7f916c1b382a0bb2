"""A program as text, one line a node: what `shardwright.shard` writes with ``dump=``, and what golden tests compare.

::

    program of 1 input, 1 output
    weight  p_up_weight  float32[6, 8]  up.weight  of [12, 8]: Shard(0) rank 0
    input   x  float32[4, 8]
    linear  float32[4, 6] = aten.linear.default(x, p_up_weight)  # up
    return  linear
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from shardwright.program.nodes import module_path, op_name, subgraph_of
from shardwright.program.program import Program


def format_program(program: Program) -> str:
    """Placeholders (weights with their cuts), calls with their values, and outputs with what they mutate.

    Graphs that higher-order operators run stand indented below the attribute that holds them.
    """
    return "\n".join(_lines(program)) + "\n"


def format_value(value: Any) -> str:
    """A node's metadata: ``float32[4, s0]`` for a tensor, a list of them, a size, or the type of anything else."""
    if isinstance(value, torch.Tensor):
        sizes = ", ".join(map(str, value.shape))
        return f"{str(value.dtype).removeprefix('torch.')}[{sizes}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(format_value, value))})"
    return str(value) if isinstance(value, torch.SymInt) else type(value).__name__


def format_node(node: fx.Node) -> str:
    """One call: ``name  value = operator(arguments)  # module path``."""
    where = f"  # {module_path(node)}" if module_path(node) else ""
    if node.op != "call_function":
        return f"{node.name}  {format_value(node.meta.get('val'))} = {node.op} {node.target}{where}"
    arguments = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    value = format_value(node.meta.get("val"))
    return f"{node.name}  {value} = {op_name(node.target)}({', '.join(arguments)}){where}"


def _lines(program: Program) -> Iterator[str]:
    num_inputs, num_outputs = len(program.user_inputs()), len(program.outputs)
    yield f"program of {_count(num_inputs, 'input')}, {_count(num_outputs, 'output')}"
    state = {item.name: str(item.target) for item in program.inputs if item.is_state}
    for node in program.graph.nodes:
        if node.name in state and node.op == "placeholder":
            target = state[node.name]
            yield f"weight  {node.name}  {format_value(node.meta.get('val'))}  {target}{_cuts(program, target)}"
        elif node.op == "output":
            for output, value in zip(program.outputs, program.output_values(), strict=True):
                target = f"  {output.kind.name.lower()} of {output.target}" if output.target else ""
                yield f"return  {_argument(value)}{target}"
        else:
            yield from _node_lines(node)


def _node_lines(node: fx.Node) -> Iterator[str]:
    subgraph = subgraph_of(node)
    if node.op == "placeholder":
        yield f"input   {node.name}  {format_value(node.meta.get('val'))}"
    elif node.op == "output":
        yield f"return  {_argument(node.args[0])}"
    elif subgraph is not None:
        yield f"{node.name}  graph {node.target}"
        yield from (f"    {line}" for inside in subgraph.graph.nodes for line in _node_lines(inside))
    else:
        yield format_node(node)


def _cuts(program: Program, target: str) -> str:
    weight = program.weights[target]
    if not weight.cuts:
        return ""
    cuts = ", ".join(f"{layout} rank {rank}" for layout, rank in weight.cuts)
    return f"  of {list(weight.tensor.shape)}: {cuts}"


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(_argument, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return str(value) if isinstance(value, (torch.dtype, torch.device, torch.layout)) else repr(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
