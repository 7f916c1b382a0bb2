"""The program as model-explorer reads it."""

import json

import pytest
import torch

import shardwright as sw
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(2, 8, dtype=torch.long)

NODE = {"id": str, "label": str, "namespace": str, "attrs": list, "incomingEdges": list, "outputsMetadata": list}
EDGE = {"sourceNodeId": str, "sourceNodeOutputId": str, "targetNodeInputId": str}
RESULT = {"value": str, "bgColor": str, "textColor": str}


def written(tmp_path, mesh, plan):
    sharded = sw.shard(torch.export.export(redraw(Decoder(layers=1)), (IDS,)), mesh=mesh, plan=plan)
    sharded.explore(tmp_path / "seen")
    return {path.name: json.loads(path.read_text()) for path in (tmp_path / "seen").iterdir()}


def has_fields(record, fields):
    return {key: type(value) for key, value in record.items()} == fields


def test_the_graph_has_the_fields_of_the_format(tmp_path):
    files = written(tmp_path, 2, MEGATRON)
    assert sorted(files) == ["graph.json", "layouts-tp.json"]
    assert sorted(files["graph.json"]) == ["graphs", "label"]
    (graph,) = files["graph.json"]["graphs"]
    ids = {node["id"] for node in graph["nodes"]}
    assert len(ids) == len(graph["nodes"])
    for node in graph["nodes"]:
        assert has_fields(node, NODE)
        assert all(has_fields(edge, EDGE) and edge["sourceNodeId"] in ids for edge in node["incomingEdges"])
    by_label = {(node["namespace"], node["label"]) for node in graph["nodes"]}
    assert ("layers/0/mlp/down_proj", "weight") in by_label
    assert ("layers/0/mlp/down_proj", "aten.linear.default") in by_label


def test_nodes_are_coloured_by_layout_on_each_axis(tmp_path):
    files = written(tmp_path, {"dp": 2, "tp": 2}, {"tp": MEGATRON})
    ids = {node["id"] for node in files["graph.json"]["graphs"][0]["nodes"]}
    for axis in ("dp", "tp"):
        ((name, overlay),) = files[f"layouts-{axis}.json"].items()
        assert name == "program"
        assert overlay["name"] == f"layouts on {axis}"
        assert set(overlay["results"]) <= ids
        assert all(has_fields(one, RESULT) for one in overlay["results"].values())
    values = {name: one["value"] for name, one in files["layouts-tp.json"]["program"]["results"].items()}
    assert values["p_layers_0_mlp_down_proj_weight"] == "Shard(1)"
    assert "Partial()" in values.values()
    assert {one["value"] for one in files["layouts-dp.json"]["program"]["results"].values()} == {"whole"}


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "seen").mkdir()
    with pytest.raises(sw.ShardwrightError, match="exists already"):
        written(tmp_path, 2, MEGATRON)
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]
