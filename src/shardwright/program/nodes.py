"""What a graph node says about itself: the modules it ran in, the user's line behind it, its operator."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from shardwright.program.torch_private import HigherOrderOperator, has_schema, schema_of
from shardwright.program.torch_repeats import is_as_expected, new_node

BACKWARD_STACK = "fwd_nn_module_stack"
"""The modules of the call whose gradient a node computes, as torch names them; it ran in none of them itself."""

RANGE = "range_of_rank"
"""In the metadata of a slice of what is there whole: an axis, a cut, and which of a rank's ranges the slice takes."""

_USER_CODE_SKIP = (
    "/torch/nn/",
    "/torch/_dynamo/",
    "/torch/export/",
    "/torch/_export/",
    "/torch/utils/",
    "/torch/fx/",
    "/shardwright/program/joint.py",
)


def module_stack(node: fx.Node) -> Iterator[tuple[str, str]]:
    """(path, class name) of the modules a node ran in, outermost first."""
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        if path.startswith("_empty_nn_module_stack"):
            continue
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        # Nodes the exporter could not place carry a marker instead of a path; a second call is marked "path@1".
        yield path.split("@")[0], name


def module_path(node: fx.Node) -> str:
    """The path of the innermost module a node ran in; '' for the root. Of a backward pass: that of its forward call."""
    stack = node.meta.get("nn_module_stack") or node.meta.get(BACKWARD_STACK)
    return _plain(next(reversed(stack.values()))[0]) if stack else ""


@lru_cache(maxsize=4096)
def numbered_module(path: str) -> str | None:
    """The path of the outermost numbered module on a path, as `layers.3`; None outside of any."""
    parts = path.split(".")
    return next((".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit() and i), None)


@lru_cache(maxsize=4096)
def _plain(path: str) -> str:
    path = path.split("@", maxsplit=1)[0]
    return "" if path.startswith("_empty_nn_module_stack") else path


def source_line(node: fx.Node) -> str:
    """``file:line`` of the user's code behind a node, the innermost frame outside torch; '' when unknown."""
    return _line_of(node.meta.get("stack_trace") or "")


@lru_cache(maxsize=256)
def _line_of(stack_trace: str) -> str:
    """The line of a trace, which the layers of a model have in common."""
    frames = [line.strip() for line in stack_trace.splitlines() if line.strip()[:6] == 'File "']
    for frame in reversed([f for f in frames if not any(skip in f for skip in _USER_CODE_SKIP)] or frames[:1]):
        path, _, rest = frame[6:].partition('", line ')
        return f"{path}:{rest.split(',')[0]}"
    return ""


def describe_node(node: fx.Node) -> str:
    """A node for an error message: name, operator, module path and source line."""
    where = f" in {module_path(node)!r}" if module_path(node) else ""
    line = source_line(node)
    return f"{node.name} ({op_name(node.target)}){where}" + (f" at {line}" if line else "")


def higher_order_name(node: fx.Node) -> str:
    """The name of the higher-order operator that a node calls; '' when it calls none."""
    return node.target.name() if isinstance(node.target, HigherOrderOperator) else ""


def subgraph_of(getter: Any) -> fx.GraphModule | None:
    """The graph that a ``get_attr`` node holds for a higher-order operator; None for any other value."""
    if not isinstance(getter, fx.Node) or getter.op != "get_attr":
        return None
    owner: Any = getter.graph.owning_module
    for part in str(getter.target).split("."):
        owner = getattr(owner, part, None)
    return owner if isinstance(owner, fx.GraphModule) else None


def held_at(owner: Any, path: str) -> Any:
    """What a module holds under a dotted path, as a ``get_attr`` node reads it."""
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner


def graphs_of(graph: fx.Graph) -> Iterator[fx.Graph]:
    """A graph and those that its higher-order operators run, depth first."""
    yield graph
    for node in graph.nodes:
        subgraph = subgraph_of(node)
        if subgraph is not None:
            yield from graphs_of(subgraph.graph)


def is_write(node: fx.Node) -> bool:
    """Whether a node's operator says that it writes to an operand."""
    schema = schema_of(node.target)
    return schema is not None and schema.is_mutable


def draws_numbers(node: fx.Node) -> bool:
    """Whether a node takes numbers from the random generator. Attention whose dropout is 0 takes none."""
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema = schema_of(node.target)
    given = dict(zip((one.name for one in schema.arguments), node.args, strict=False)) | node.kwargs
    rates = [given.get(one.name, one.default_value) for one in schema.arguments if one.name in _RATES]
    return not rates or any(rate != 0 for rate in rates)


_RATES = ("dropout", "dropout_p")
"""How operators that do something else besides call the share that they drop."""


def add_node(graph: fx.Graph, op: str, target: Any, args: Any, kwargs: Any, name: str | None = None) -> fx.Node:
    """A new node, as `fx.Graph.create_node` makes it, in a third of the time where torch is as expected.

    That function searches all arguments for bare symbolic numbers, which no pass writes.
    """
    if is_as_expected(graph):
        return new_node(graph, op, target, tuple(args), kwargs, name)
    return graph.create_node(op, target, tuple(args), kwargs, name)


def copy_node(graph: fx.Graph, node: fx.Node, copies: Mapping[fx.Node, Any]) -> fx.Node:
    """A node of another graph, under its own name, also where that is a Python name (``input``), which torch numbers.

    ``copies``: what stands for the nodes of the other graph in this one.
    """
    find = copies.__getitem__
    args, kwargs = fx.map_arg(node.args, find), fx.map_arg(node.kwargs, find) if node.kwargs else {}
    copied = add_node(graph, node.op, node.target, args, kwargs, node.name)
    if copied.name != node.name:
        copied.name = node.name
    copied.meta.update(node.meta)
    return copied


def op_name(target: Any) -> str:
    """``aten.linear.default`` for an operator, the function's name otherwise."""
    return str(target) if has_schema(target) else getattr(target, "__name__", str(target))


def val_of(argument: Any) -> Any:
    """What a node computes, as the exporter noted it (fake tensors, symbolic sizes); anything else is its own value."""
    return argument.meta.get("val") if isinstance(argument, fx.Node) else argument


def is_tensor(node: fx.Node) -> bool:
    """Whether a node's value is one tensor."""
    return isinstance(val_of(node), torch.Tensor)
