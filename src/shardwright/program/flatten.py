"""Graphs made flat and functional: subgraphs written out in place, effect tokens dropped, mutation taken out."""

import operator
from collections.abc import Collection, Mapping
from typing import Any

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from shardwright.errors import ProgramError, first_line
from shardwright.program.instance_norm import WRITTEN_OUT, keeps_statistics
from shardwright.program.nodes import graphs_of, higher_order_name, is_write, subgraph_of
from shardwright.program.program import held_by
from shardwright.program.remembered import remembered
from shardwright.program.torch_repeats import operators_listed_once
from shardwright.program.torch_vmap import is_mapping, mapping_undone, without_leftovers


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The program without mutation and `torch.vmap` in its graph, inputs named as its signature has them; itself where
    that is so.

    Raises `ProgramError` when torch cannot take them out.
    """
    if _is_named(exported) and not _needs_functionalization(exported.graph_module):
        return exported
    return _without_mutation(exported)


@remembered
def _without_mutation(exported: ExportedProgram) -> ExportedProgram:
    nodes = [node for graph in graphs_of(exported.graph) for node in graph.nodes]
    maps = any(map(is_mapping, nodes))
    hidden = {node.target for node in nodes if keeps_statistics(node)}
    table = {op: written_out for op, written_out in WRITTEN_OUT.items() if op in hidden}
    try:
        with operators_listed_once(), mapping_undone():
            return (without_leftovers(exported) if maps else exported).run_decompositions(table)
    except Exception as error:
        if maps:
            raise ProgramError(
                f"torch cannot write out what this program does in `torch.vmap` ({type(error).__name__}: "
                f"{first_line(error)})\n  try: write the dim that is mapped over into the model"
            ) from error
        # Tracing its own graph anew, torch trips over sizes that depend on data, and over tensors that are written but
        # are not buffers of the program: an error of torch's, or an assertion.
        raise ProgramError(
            f"torch cannot take the mutation out of this program ({type(error).__name__}: {first_line(error)})"
            f"{_aliases(exported)}\n"
            "  try: register the tensors that the forward pass writes as buffers; where they are, reach them as "
            "attributes of their module, or export with strict=True"
        ) from error


def _is_named(exported: ExportedProgram) -> bool:
    """Whether inputs have the names of the signature: a copy of a program numbers those that Python has (``input``)."""
    nodes = exported.graph.find_nodes(op="placeholder")
    specs = exported.graph_signature.input_specs
    return all(getattr(spec.arg, "name", node.name) == node.name for spec, node in zip(specs, nodes, strict=True))


def _aliases(exported: ExportedProgram) -> str:
    """A line that names the constants of a program that are its buffers too."""
    tensors, signature = held_by(exported), exported.graph_signature
    buffers = {id(tensors[name]): name for name in signature.buffers if name in tensors}
    lifted = [name for name in signature.lifted_tensor_constants if id(tensors[name]) in buffers]
    known = ", ".join(f"{name!r} is {buffers[id(tensors[name])]!r}" for name in lifted)
    return f"\n  constants that are buffers reached by another way: {known}" if known else ""


def flat_graph(exported: ExportedProgram, dropped: Collection[str] = ()) -> fx.Graph:
    """The graph with gradient-free subgraphs written out and without effect tokens; itself when it has neither.

    ``dropped``: placeholders that nothing reads, left out as well.
    Tokens order operators that have effects (checks of errors); a graph keeps its order, so the calls stand bare.
    """
    module = exported.graph_module
    if not dropped and not any(
        _is_inlined(node) or higher_order_name(node) == "with_effects" for node in module.graph.nodes
    ):
        return exported.graph
    graph = fx.Graph(module)
    _copy_into(graph, module.graph, {}, _tokens(exported) | set(dropped), top=True)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return graph


def _needs_functionalization(module: fx.GraphModule) -> bool:
    nodes = [node for graph in graphs_of(module.graph) for node in graph.nodes if node.op == "call_function"]
    return any(
        _mutates(node)
        or is_mapping(node)
        or (higher_order_name(node) == "wrap_with_autocast" and node.args[2] is not False)
        for node in nodes
    )


def _mutates(node: fx.Node) -> bool:
    return is_write(node) or keeps_statistics(node)


def _is_inlined(node: fx.Node) -> bool:
    name = higher_order_name(node)
    return name == "wrap_with_set_grad_enabled" or (name == "wrap_with_autocast" and node.args[2] is False)


def _subgraph(node: fx.Node) -> fx.GraphModule:
    position = 1 if higher_order_name(node) == "wrap_with_set_grad_enabled" else 4
    subgraph = subgraph_of(node.args[position])
    assert subgraph is not None, "a subgraph is called through its get_attr node"
    return subgraph


def _copy_into(
    graph: fx.Graph, source: fx.Graph, env: dict[fx.Node, Any], tokens: Collection[str], *, top: bool
) -> Any:
    """Copy the nodes of ``source``, the whole graph (``top``) or a subgraph, whose arguments ``env`` holds."""
    result: Any = None
    for node in source.nodes:
        if node.op == "placeholder" and (not top or node.name in tokens):
            env.setdefault(node, None)
            continue
        if node.op == "output":
            result = fx.map_arg(node.args[0], lambda n: env[n])
            if top:
                kept = tuple(
                    v for v, n in zip(result, node.args[0], strict=True) if getattr(n, "name", "") not in tokens
                )
                graph.output(kept).meta = dict(node.meta)
        elif higher_order_name(node) == "with_effects":
            env[node] = [None, *_without_token(graph, node, env)]
        elif _is_inlined(node):
            subgraph = _subgraph(node)
            position = 2 if higher_order_name(node) == "wrap_with_set_grad_enabled" else 5
            params = [n for n in subgraph.graph.nodes if n.op == "placeholder"]
            inner: dict[fx.Node, Any] = {
                p: env[a] if isinstance(a, fx.Node) else a for p, a in zip(params, node.args[position:], strict=True)
            }
            env[node] = _copy_into(graph, subgraph.graph, inner, tokens, top=False)
        elif node.target is operator.getitem and not isinstance(env[node.args[0]], fx.Node):
            env[node] = env[node.args[0]][node.args[1]]  # type: ignore[index]
        else:
            env[node] = graph.node_copy(node, lambda n: env[n])
            if node.op == "placeholder":
                # Also where that is a Python name (``input``), which torch would number.
                env[node].name = node.name
    return result


def _without_token(graph: fx.Graph, node: fx.Node, env: Mapping[fx.Node, Any]) -> list[Any]:
    """The results of an operator that ``with_effects`` calls, as a list."""
    _, op, *args = node.args
    results = node.meta["val"][1:]
    mapped, kwargs = fx.map_arg((tuple(args), dict(node.kwargs)), lambda n: env[n])
    bare = graph.call_function(op, mapped, kwargs)  # type: ignore[arg-type]
    bare.meta = {**node.meta, "val": results[0] if len(results) == 1 else results or None}
    if len(results) < 2:
        return [bare] * len(results)
    found = []
    for number, value in enumerate(results):
        part = graph.call_function(operator.getitem, (bare, number))
        part.meta = {**node.meta, "val": value}
        found.append(part)
    return found


def _tokens(exported: ExportedProgram) -> set[str]:
    """The names of placeholders and outputs that are effect tokens."""
    signature = exported.graph_signature
    specs = (
        *(spec.arg for spec in signature.input_specs if spec.kind == InputKind.TOKEN),
        *(spec.arg for spec in signature.output_specs if spec.kind == OutputKind.TOKEN),
    )
    return {spec.name for spec in specs}  # type: ignore[union-attr]
