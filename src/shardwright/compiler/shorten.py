"""`shorten`: a program with one layer for all that are alike and that a request asks the same of."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardwright.compiler.request import Request
from shardwright.program.layers import Layer, find_stacks
from shardwright.program.program import Program
from shardwright.program.shallow import Shallow, Shortened, make_shallow, shortened


def shorten(program: Program, request: Request) -> Shallow | None:
    """The program without the layers that others stand for; None where there are none, or too few."""
    stacks = shortened(program, find_stacks(program))
    wanted = [one for one in stacks if _is_asked_alike(one, program, request)]
    return make_shallow(program, wanted) if wanted else None


def _is_asked_alike(stack: Shortened, program: Program, request: Request) -> bool:
    """Whether plans pin the same of all layers, and layouts of inputs and outputs are asked for of none."""
    pinned = [_pins(layer, request) for layer in (stack.kept, *stack.left_out)]
    if any(one != pinned[0] for one in pinned):
        return False
    asks = any(value for given in (request.inputs, request.outputs) for value in given.values())
    return not asks or not _is_called(stack.kept, program)


def _pins(layer: Layer, request: Request) -> Any:
    """What plans pin of a layer, on every axis."""
    named = [[found.get(node.name) for node in layer.own] for found in request.named.values()]
    return named, list(_boundaries(layer, request.boundaries))


def _boundaries(layer: Layer, boundaries: Mapping[str, Any]) -> Iterator[Any]:
    for axis, found in boundaries.items():
        for one in found:
            if one.module == layer.module or one.module.startswith(f"{layer.module}."):
                yield axis, one.module.removeprefix(layer.module), one.side, one.position, one.layout, one.key


def _is_called(layer: Layer, program: Program) -> bool:
    """Whether a call gives a layer an input of its own, or takes an output of it."""
    users = {item.name for item in program.user_inputs()}
    returned = set(program.output_values())
    return any(node.name in users for node in layer.own) or any(node in returned for node in layer.nodes)
