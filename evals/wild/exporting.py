"""Export with every size that may change left open: at first the leading dim of each input; else none."""

import torch
from torch.export import Dim
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils import _pytree as pytree

from evals.zoo.exporting import Exported, plain
from evals.zoo.results import one_line

OPEN = "open batch"


def export(model, inputs):
    """The program with leading dims open, or with fixed sizes; its ``way`` says which, and what kept the first away.

    Raises what `torch.export` raises with fixed sizes.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(model, (), dict(inputs), dynamic_shapes=_leading(inputs), strict=False)
        way = OPEN if any(map(opened, known_of(program))) else "every size fixed by the model"
    except Exception as error:  # noqa: BLE001 - what it raises is written down
        program, way = plain(model, inputs), f"fixed sizes: {one_line(error, 200)}"
    return Exported(program, inputs, inputs, way)


def _leading(inputs):
    return pytree.tree_map(lambda one: {0: Dim.AUTO} if isinstance(one, torch.Tensor) and one.dim() else None, inputs)


def known_of(program):
    """What the program knows of each of its inputs, in order: a tensor without numbers, or the value that is fixed."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    return [values[spec.arg.name] for spec in specs if spec.kind is InputKind.USER_INPUT]


def opened(value):
    """Whether a tensor's leading dim is a symbol that no guard has fixed."""
    return isinstance(value, torch.Tensor) and value.dim() > 0 and not is_concrete_int(value.shape[0])


def larger(program, inputs):
    """The inputs with one more row wherever the program leaves the leading dim open."""
    leaves, spec = pytree.tree_flatten(inputs)
    pairs = zip(leaves, known_of(program), strict=True)
    return pytree.tree_unflatten([torch.cat((one, one[:1])) if opened(value) else one for one, value in pairs], spec)
