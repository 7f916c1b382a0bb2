"""A rank's deep program, written of its shallow one."""

import pytest

from shardwright.partition.deepen import deepen
from shardwright.partition.partition import collectives_of
from tests.support.shallow import LAYERS, shallow_and_local


@pytest.fixture(scope="module")
def found():
    return shallow_and_local()


def test_every_layer_has_its_own_names_and_weights(found):
    shallow, local = found
    deep = deepen(local, shallow)
    assert [item.name for item in deep.inputs if item.is_state] == [i.name for i in shallow.deep.inputs if i.is_state]
    assert deep.outputs == shallow.deep.outputs
    for number in range(LAYERS):
        weight = deep.weights[f"layers.{number}.mlp.up_proj.weight"]
        assert weight.tensor is shallow.deep.weights[f"layers.{number}.mlp.up_proj.weight"].tensor
        assert weight.cuts == deep.weights["layers.0.mlp.up_proj.weight"].cuts
    by_layer = {}
    for one in collectives_of(deep):
        by_layer.setdefault(one.module.split(".")[1] if "layers." in one.module else "", []).append(one)
    assert all(len(by_layer[str(number)]) == len(by_layer["2"]) for number in range(2, LAYERS - 1))
    for number in range(2, LAYERS - 1):
        assert all(f"layers.{number}." in one.cause for one in by_layer[str(number)])
    assert len({node.name for node in deep.graph.nodes}) == len(deep.graph.nodes)
    assert not deep.members
