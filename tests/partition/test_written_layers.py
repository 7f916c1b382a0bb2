"""What a rank runs for the layer that stands for others."""

import pytest
import torch

from shardwright.partition.deepen import deepen
from shardwright.partition.written_layers import UnlikeLayersError, find_written, pair_nodes
from tests.support.shallow import shallow_and_local


@pytest.fixture(scope="module")
def found():
    return shallow_and_local()


def test_pairs_name_what_stands_for_each_node(found):
    shallow, local = found
    deep = deepen(local, shallow)
    pairs = pair_nodes(local, deep, shallow)
    assert set(pairs) == {node for node in deep.graph.nodes if node.op != "output"}
    assert all(node.target == kept.target for node, kept in pairs.items() if node.op == "call_function")
    assert pairs[next(node for node in deep.graph.nodes if node.name == "p_layers_5_norm1_weight")].name == (
        "p_layers_3_norm1_weight"
    )


def test_layers_that_were_written_otherwise_are_refused(found):
    shallow, local = found
    (written,) = find_written(local, shallow)
    assert (written.before.module, written.kept.module) == ("layers.2", "layers.3")
    node = next(
        node
        for node in local.graph.nodes
        if node.target is torch.ops.aten.silu.default and "layers.3." in str(node.meta["nn_module_stack"])
    )
    node.target = torch.ops.aten.relu.default
    try:
        with pytest.raises(UnlikeLayersError, match=r"'layers\.3' is not written as 'layers\.2'"):
            find_written(local, shallow)
    finally:
        node.target = torch.ops.aten.silu.default
