"""Which tensors hold the quantised values of a layer's weight, told from names and from the graph.

Weights of torchao's are taken apart into ``up.weight.qdata`` and its scales, by torch (``run_decompositions``) into
``up.parametrizations.weight.original0`` and others. PT2E's ``convert_pt2e`` puts the values of ``up.weight`` into
``_frozen_param0`` and their scales into ``_scale_0``, and leaves the float weight, which nothing reads any longer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import fx

from shardwright.program.nodes import module_path, val_of

_PACKED = (
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
_NAMED = re.compile(r"((?:.*\.)?)(?:([^.]+)\.qdata|parametrizations\.([^.]+)\.original\d+)")


def quantized_weights(graph: fx.Graph, state: Mapping[str, str]) -> dict[str, str]:
    """The tensor that holds the quantised values of a weight → the weight's name.

    ``state``: the placeholders of state, and their names. Zero points are integers as well, and fewer than the values.
    """
    largest: dict[str, tuple[int, str]] = {}
    for name, weight, size in _candidates(graph, state):
        if weight not in largest or largest[weight][0] < size:
            largest[weight] = (size, name)
    return {name: weight for weight, (_, name) in largest.items()}


def left_behind(graph: fx.Graph, state: Mapping[str, str]) -> set[str]:
    """The placeholders of what quantised weights leave that nothing reads: the floats that they were converted from,
    and of their own parts the zero points of symmetric ones.

    None where no weight is quantised.
    """
    nodes = [node for node in graph.nodes if node.op == "placeholder" and node.name in state]
    unread = [node for node in nodes if not node.users]
    read = {state[node.name]: node for node in nodes if node.users and is_packed(val_of(node))}
    owners = {name.rpartition(".")[0] for name in read if _NAMED.fullmatch(name)}
    found = {node.name for node in unread if state[node.name].rpartition(".")[0] in owners}
    if _found_in_graph(graph, {state[node.name]: node for node in nodes}):
        found |= {node.name for node in unread if _is_float(val_of(node))}
    return found


def _candidates(graph: fx.Graph, state: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    """Integers and narrow floats that belong to a weight: their name, the weight's, and how many they are."""
    nodes = {state[node.name]: node for node in graph.nodes if node.op == "placeholder" and node.name in state}
    in_graph = _found_in_graph(graph, nodes)
    for name, node in nodes.items():
        if not is_packed(val_of(node)):
            continue
        match = _NAMED.fullmatch(name)
        weight = f"{match[1]}{match[2] or match[3]}" if match else in_graph.get(name)
        if weight:
            yield name, weight, val_of(node).numel()


def _found_in_graph(graph: fx.Graph, nodes: Mapping[str, fx.Node]) -> dict[str, str]:
    """Values that belong to no module of their own, and meet an activation in one whose ``weight`` nothing reads."""
    packed = {name: node for name, node in nodes.items() if is_packed(val_of(node)) and not _NAMED.fullmatch(name)}
    made_of_state = _made_of_state(graph, nodes.values()) if packed else set()
    found = {}
    for name, node in packed.items():
        path = next(_readers(node, made_of_state), "")
        weight = nodes.get(f"{path}.weight")
        if path and not name.startswith(f"{path}.") and not (weight is not None and weight.users):
            found[name] = f"{path}.weight"
    return found


def is_packed(value: object) -> bool:
    """Whether a tensor may hold quantised values: a matrix, or more, of integers or of floats of 8 bits."""
    return isinstance(value, torch.Tensor) and value.dtype in _PACKED and value.dim() > 1


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _made_of_state(graph: fx.Graph, placeholders: Iterable[fx.Node]) -> set[fx.Node]:
    """What is computed of state alone."""
    found = set(placeholders)
    for node in graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _readers(node: fx.Node, made_of_state: set[fx.Node]) -> Iterator[str]:
    """The modules where what is made of a weight first meets something else, in order."""
    for user in node.users:
        if user in made_of_state:
            yield from _readers(user, made_of_state)
        elif path := module_path(user):
            yield path
