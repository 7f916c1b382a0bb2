"""Layers in a row that are alike."""

import pytest
import torch
from torch import nn

from shardwright import export_training
from shardwright.program.layers import find_stacks
from shardwright.program.read import read

X = torch.randn(2, 8)


class Layer(nn.Module):
    def __init__(self, width=8, act=torch.relu, scale=1.0):
        super().__init__()
        self.fc, self.act, self.scale = nn.Linear(width, width), act, scale

    def forward(self, x, shift):
        return x + self.act(self.fc(x)) * self.scale + shift


class Net(nn.Module):
    def __init__(self, layers, *, tap=None, between=None):
        super().__init__()
        self.first, self.layers = nn.Linear(8, 8), nn.ModuleList(layers)
        self.tap, self.between = tap, between

    def forward(self, x):
        x = self.first(x)
        shift = x.mean()
        tapped = torch.zeros(())
        for number, layer in enumerate(self.layers):
            x = layer(x, shift)
            if number == self.tap:
                tapped = x
            if number == self.between:
                x = x * 2
        return x + tapped


class Summed(nn.Module):
    """A loss."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).square().sum()


def numbers(net):
    """The numbers of the layers of every stack."""
    return [[layer.number for layer in stack.layers] for stack in find_stacks(read(torch.export.export(net, (X,))))]


def layers(count, **options):
    return [Layer(**options) for _ in range(count)]


def test_all_but_the_ends():
    assert numbers(Net(layers(6))) == [[1, 2, 3, 4]]


@pytest.mark.parametrize("other", [{"act": torch.tanh}, {"scale": 2.0}], ids=["operator", "constant"])
def test_a_layer_that_computes_otherwise_parts_a_row(other):
    # The one behind it reads another layer, which does not show in what it calls.
    assert numbers(Net([*layers(4), Layer(**other), *layers(4)])) == [[1, 2, 3], [5, 6, 7]]


def test_a_layer_that_others_read_is_like_none():
    assert numbers(Net(layers(9), tap=4)) == [[1, 2, 3], [5, 6, 7]]


def test_what_is_called_between_layers_parts_a_row():
    assert numbers(Net(layers(9), between=4)) == [[1, 2, 3], [6, 7]]


def test_a_weight_that_layers_share_is_not_their_own():
    shared = layers(6)
    for layer in shared[1:]:
        layer.fc.weight = shared[0].fc.weight
    (stack,) = find_stacks(read(torch.export.export(Net(shared), (X,))))
    assert [[node.name for node in layer.own] for layer in stack.layers] == [
        [f"p_layers_{layer.number}_fc_bias"] for layer in stack.layers
    ]


def test_what_layers_have_of_their_own():
    (stack,) = find_stacks(read(torch.export.export(Net(layers(5)), (X,))))
    for layer in stack.layers:
        assert layer.module == f"layers.{layer.number}"
        assert [node.name for node in layer.own] == [
            f"p_layers_{layer.number}_fc_{part}" for part in ("weight", "bias")
        ]
        assert len(layer.nodes) == len(stack.layers[0].nodes)


def test_a_program_for_training_has_none():
    joint = export_training(Summed(Net(layers(6))), (X,))
    assert find_stacks(read(joint)) == []
