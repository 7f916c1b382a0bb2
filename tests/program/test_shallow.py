"""A program without the layers that others stand for."""

from dataclasses import replace

import torch
from torch import nn

from shardwright.program.layers import find_stacks
from shardwright.program.read import read
from shardwright.program.shallow import KEPT, LEAST_LEFT_OUT, make_shallow, shortened
from tests.support.models import GLU

FEWEST = 1 + KEPT + LEAST_LEFT_OUT + 1
"""So many layers are worth it: the first and the last are like no other."""


class Net(nn.Module):
    def __init__(self, count, make=lambda: GLU(8, 12)):
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(count))

    def forward(self, x):
        seen = []
        for layer in self.layers:
            x = layer(x)
            seen.append(x)
        return x, seen


def shallow(net):
    program = read(torch.export.export(net, (torch.randn(2, 8),)))
    found = shortened(program, find_stacks(program))
    return make_shallow(program, found) if found else None


def test_few_layers_stay_as_they_are():
    assert shallow(Net(FEWEST - 1)) is None
    assert shallow(Net(FEWEST)) is not None


def test_layers_of_one_matrix_stay_as_they_are():
    """Beside each other they are best cut in turn: by columns, by rows."""
    assert shallow(Net(FEWEST, lambda: nn.Linear(8, 8))) is None


def test_a_tensor_of_all_layers_is_there_once():
    net = Net(FEWEST)
    for layer in net.layers:
        layer.up_proj.weight = net.layers[0].up_proj.weight
    found = shallow(net)
    assert "layers.0.up_proj.weight" in found.program.weights
    assert not any("up_proj" in name for name in found.stands_for().values())


def test_layers_whose_own_tensors_are_one_stay_as_they_are():
    """A tensor of several names counts once in what a rank holds."""
    program = read(torch.export.export(Net(FEWEST), (torch.randn(2, 8),)))
    one = program.weights["layers.1.up_proj.weight"]
    held = {name: one if name.endswith("up_proj.weight") else weight for name, weight in program.weights.items()}
    assert shortened(replace(program, weights=held), find_stacks(program)) == []


def test_the_third_layer_stands_for_those_behind_it():
    found = shallow(Net(FEWEST + 2))
    (stack,) = found.stacks
    left_out = [layer.number for layer in stack.left_out]
    assert (stack.before.number, stack.kept.number, left_out) == (2, 3, list(range(4, FEWEST + 1)))
    assert found.program.members[stack.kept.module] == 1 + len(left_out)
    kept = {item.target for item in found.program.inputs if item.is_state}
    assert kept == set(found.program.weights)
    assert not any(f"layers.{number}." in target for number in left_out for target in kept)
    # Every node of the deep program is one of these, or stands for some.
    calls = [node for node in found.program.graph.nodes if node.op == "call_function"]
    deep = [node for node in found.deep.graph.nodes if node.op == "call_function"]
    assert sum(map(found.program.members_of, calls)) == len(deep)
    assert found.stands_for()["p_layers_5_up_proj_weight"] == "p_layers_3_up_proj_weight"


def test_what_layers_return_that_are_left_out_is_left_out():
    found = shallow(Net(FEWEST))
    values = found.program.output_values()
    assert len(values) == len(found.program.outputs) == len(found.outputs) == len(found.deep.outputs) - LEAST_LEFT_OUT
    assert [found.deep.output_values()[number].name for number in found.outputs] == [value.name for value in values]
