"""A program as model-explorer's JSON: ``graph.json``, and one overlay for each mesh axis that colours nodes by layout.

Model-explorer (Google's viewer of large graphs) reads a file that holds a label and a list of graphs, and "node data":
graph id → node id → value and colour. Both formats are those of its Python package (``ai-edge-model-explorer`` 0.1.34),
whose classes name the fields.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.layout.layout import Layout, Partial, Shard
from shardwright.layout.values import check_free
from shardwright.page.words import format_layout
from shardwright.program.nodes import is_tensor, module_path, op_name, source_line, val_of
from shardwright.program.program import Program

_COLOURS = ("#8ec1ff", "#ffc27a", "#8fe3a2", "#d6b8ff")
"""Of a cut of dim 0, 1, 2 and a later one."""
_WHOLE, _PARTIAL = "#d8dde3", "#ff9d96"


def write_explorer(assignments: Mapping[str, Assignment], folder: str | os.PathLike[str]) -> None:
    """Write the folder, which must not exist: ``graph.json``, and ``layouts-AXIS.json`` for each axis of
    ``assignments``. Raises `ShardwrightError` where something has its name.

    The graph is the one that the first axis was solved on, before anything is cut. A later axis is solved on what the
    first rank has of it, whose collectives and slices are not in the graph.
    """
    target = check_free(folder, "the folder")
    program = next(iter(assignments.values())).program
    files: dict[str, Any] = {
        "graph.json": {"label": "program", "graphs": [{"id": "program", "nodes": _nodes(program)}]}
    }
    for axis, one in assignments.items():
        files[f"layouts-{axis}.json"] = {"program": {"name": f"layouts on {axis}", "results": _results(one, program)}}
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    draft.mkdir()
    try:
        for name, data in files.items():
            (draft / name).write_text(json.dumps(data), encoding="utf-8")
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _nodes(program: Program) -> list[dict[str, Any]]:
    targets = {item.name: item.target for item in program.inputs if item.target is not None}
    return [_node(node, targets) for node in program.graph.nodes]


def _node(node: fx.Node, targets: Mapping[str, str]) -> dict[str, Any]:
    name = targets.get(node.name)
    path = name.rpartition(".")[0] if name is not None else module_path(node)
    label = name.rpartition(".")[2] if name is not None else _label(node)
    facts = {"node": node.name, "source": source_line(node)} | ({"weight": name} if name is not None else {})
    return {
        "id": node.name,
        "label": label,
        "namespace": path.replace(".", "/"),
        "attrs": [{"key": key, "value": value} for key, value in facts.items() if value],
        "incomingEdges": [
            {"sourceNodeId": source.name, "sourceNodeOutputId": "0", "targetNodeInputId": str(number)}
            for number, source in enumerate(node.all_input_nodes)
        ],
        "outputsMetadata": [{"id": "0", "attrs": [{"key": "tensor_shape", "value": _shape(node)}]}]
        if is_tensor(node)
        else [],
    }


def _label(node: fx.Node) -> str:
    return op_name(node.target) if node.op == "call_function" else node.name


def _shape(node: fx.Node) -> str:
    value: torch.Tensor = val_of(node)
    return f"{str(value.dtype).removeprefix('torch.')}{list(map(str, value.shape))}".replace("'", "")


def _results(assignment: Assignment, program: Program) -> dict[str, dict[str, str]]:
    known = {node.name for node in program.graph.nodes}
    origins = assignment.program.origins
    found: dict[str, dict[str, str]] = {}
    for node, (step, result) in assignment.steps.value_of.items():
        # The program of a later axis holds nodes of its own, whose names may be those of others in the graph.
        name = origins[node.name][0] if node.name in origins else node.name if not origins else ""
        strategy = assignment.strategies[step]
        if strategy is None or name not in known or result >= len(strategy.results):
            continue
        layout = strategy.results[result]
        found[name] = {"value": format_layout(layout), "bgColor": _colour(layout), "textColor": "#1b1f24"}
    return found


def _colour(layout: Layout) -> str:
    if isinstance(layout, Shard):
        return _COLOURS[min(layout.dim, len(_COLOURS) - 1)]
    return _PARTIAL if isinstance(layout, Partial) else _WHOLE
