"""What packed weights take once they are unpacked: as many numbers as they stand for, as wide as they are computed.

The automatic plan counts weights so. Counted as they are stored, packed ones would leave those beside them less of the
slack than they have in the plain model, and heads that this keeps whole would be split. Scales count nothing, as they
are not in that model; that they are cut where nothing speaks against it is a matter of preference.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import fx

from shardwright.program.nodes import val_of
from shardwright.program.program import Program
from shardwright.program.quantized_weights import is_packed
from shardwright.rules.call import num_bytes, num_elements


def unpacked_factors(program: Program) -> dict[str, float]:
    """Placeholder → how many times its bytes the weight takes that its numbers are unpacked to, 0 for scales and zero
    points; those of no packed weight are absent. All names of one tensor have one factor.
    """
    return program.once("unpacked factors", lambda: _of_all_names(program, _factors(program)))


def _of_all_names(program: Program, found: dict[str, float]) -> dict[str, float]:
    """These factors by every name of a tensor: of an embedding and a head that are tied, the program reads one."""
    names: dict[int, list[str]] = {}
    for item in program.inputs if found else ():
        if item.is_state and item.target is not None:
            names.setdefault(id(program.weights[item.target].tensor), []).append(item.name)
    known = {
        name: max(found[one] for one in own if one in found)
        for own in names.values()
        for name in own
        if any(one in found for one in own)
    }
    return {**found, **known}


def _factors(program: Program) -> dict[str, float]:
    state = {item.name for item in program.inputs if item.is_state}
    packed = {node.name for node in program.placeholders() if node.name in state and is_packed(val_of(node))}
    found: dict[str, float] = {}
    made = _made_of_state(program, state) if packed else {}
    for node, parts in made.items():
        is_read = isinstance(val_of(node), torch.Tensor) and any(user not in made for user in node.users)
        most = max((size for name, size in parts.items() if name in packed), default=0)
        if not is_read or not most:
            continue
        # Experts that were packed in several parts have as many tensors of numbers; zero points are few beside them.
        numbers = {name: size for name, size in parts.items() if name in packed and size >= most / 2}
        factor = num_elements(val_of(node), program.fake_mode) * _element_bytes(node) / sum(numbers.values())
        for name, size in parts.items():
            # No scale is larger than the numbers: such a part is a weight itself.
            if name in numbers or size < most:
                found[name] = max(found.get(name, 0.0), factor if name in numbers else 0.0)
    return found


def _made_of_state(program: Program, state: set[str]) -> dict[fx.Node, dict[str, float]]:
    """What is made of state alone → the bytes of each placeholder of state that it is made of.

    Rows of packed weights that are looked up are made of such rows of its parts. They are what a model computes with:
    whatever brings a whole weight to them reads them, and all that follows is made of more than state.
    """
    made: dict[fx.Node, dict[str, float]] = {}
    rows: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in state:
            made[node] = {node.name: num_bytes(val_of(node), program.fake_mode)}
        elif node.op == "call_function":
            operands = node.all_input_nodes
            parts = {name: size for operand in operands for name, size in made.get(operand, {}).items()}
            of_rows = [operand in rows for operand in operands if made.get(operand)]
            if all(operand in made for operand in operands) and len(set(of_rows)) < 2:
                made[node] = parts
                rows.update([node] if any(of_rows) else [])
            elif parts and _is_looked_up(node, [operand for operand in operands if operand in made]):
                share = num_bytes(val_of(node), program.fake_mode) / max(sum(parts.values()), 1.0)
                made[node] = {name: size * share for name, size in parts.items()}
                rows.add(node)
    return made


def _is_looked_up(node: fx.Node, made: Sequence[fx.Node]) -> bool:
    """Whether a call with other operands besides gives packed values as they came; a product has another dtype."""
    return is_packed(val_of(node)) and any(
        isinstance(val_of(one), torch.Tensor) and val_of(one).dtype == val_of(node).dtype for one in made
    )


def _element_bytes(node: fx.Node) -> int:
    """The bytes of a number of a weight; where it meets activations packed, those of what comes of it."""
    for after in (node, *_after(node)):
        value = val_of(after)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.element_size() > 1:
            return value.element_size()
    return val_of(node).element_size()


def _after(node: fx.Node) -> Iterator[fx.Node]:
    """What is computed of a node, step by step."""
    seen, ahead = {node}, [node]
    while ahead:
        users = [user for one in ahead for user in one.users if user not in seen]
        ahead = list(dict.fromkeys(users))
        seen.update(ahead)
        yield from ahead
