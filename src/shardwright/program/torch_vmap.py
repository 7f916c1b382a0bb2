"""`torch.vmap` as exported graphs have it: two calls, between which tensors lack the dim that is mapped over.

Names of torch that it does not promise to keep; see `torch_private`. Its ``run_decompositions`` writes such a graph
with the dim in place, but trips over two things, for which these are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind

from shardwright.program.torch_private import OpOverload


def is_mapping(node: fx.Node) -> bool:
    """Whether a call begins or ends what `torch.vmap` does."""
    return getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


@contextmanager
def mapping_undone() -> Iterator[None]:
    """Torch counts how many maps it is in, and does not count back where it fails in one: all that follows would."""
    before = torch._C._functorch.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        if torch._C._functorch.get_dynamic_layer_stack_depth() > before:
            torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(before)


def without_leftovers(exported: ExportedProgram) -> ExportedProgram:
    """The program without constants that only calls without readers read; itself where it has none.

    A map inside a map leaves such constants behind: they are made of the inner one's tensors, which exist nowhere else.
    """
    specs = exported.graph_signature.input_specs
    constants = {spec.arg.name: spec.target for spec in specs if spec.kind is InputKind.CONSTANT_TENSOR}
    left: set[fx.Node] = set()
    for node in reversed(exported.graph.nodes):
        is_left = node.name in constants or (isinstance(node.target, OpOverload) and not node.is_impure())
        if is_left and node.users.keys() <= left:
            left.add(node)
    gone = {node.name: constants[node.name] for node in left if node.op == "placeholder"}
    if not gone:
        return exported
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in exported.graph.nodes:
        if node not in left:
            env[node] = graph.node_copy(node, env.__getitem__)
    kept = [spec for spec in specs if getattr(spec.arg, "name", None) not in gone]
    return ExportedProgram(
        root=exported.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(kept, list(exported.graph_signature.output_specs)),
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=exported.module_call_graph,
        example_inputs=exported.example_inputs,
        constants={name: one for name, one in exported.constants.items() if name not in gone.values()},
        verifiers=exported.verifiers,
    )
