"""Heads, groups and parts that the graph gives the dims of weights."""

import pytest
import torch
from torch import nn

from shardwright.assign.structure import DimStructure, weight_structure
from shardwright.program.read import read
from tests.support.models import Decoder, GroupedPacked, redraw


def structure(model, *args):
    found = weight_structure(read(torch.export.export(redraw(model), args)))
    return {name: dims for name, dims in found.items() if dims}


def test_heads_and_groups_of_a_decoder():
    found = structure(Decoder(layers=2, width=64, heads=8, kv_heads=4), torch.zeros(2, 8, dtype=torch.long))
    for layer in range(2):
        mine = {name.split(".")[3]: dims for name, dims in found.items() if f"layers.{layer}.self_attn" in name}
        assert mine == {
            "q_proj": [DimStructure(0, (8, 16), ())],
            "k_proj": [DimStructure(0, (8,), ())],
            "v_proj": [DimStructure(0, (8,), ())],
            "o_proj": [DimStructure(1, (8, 16), ())],
        }
    assert not [name for name in found if "mlp" in name or "embed" in name or "norm" in name]


def test_parts_of_a_packed_projection():
    found = structure(GroupedPacked(), torch.randn(2, 5, 32))
    assert found["qkv.weight"][0].parts == found["qkv.bias"][0].parts == (32, 16, 16)
    assert found["out.weight"] == [DimStructure(1, (8, 16), ())]


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.both, self.down = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, -1)
        return self.down(gate.sigmoid() * up)


@pytest.mark.parametrize("width", [6, 7])
def test_gate_and_up_in_one(width):
    found = structure(Gated(width), torch.randn(3, width))
    assert {name: [dim.parts for dim in dims] for name, dims in found.items()} == {
        "both.weight": [(width, width)],
        "both.bias": [(width, width)],
    }


def test_a_table_of_ten_million_rows_takes_no_time():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.both, self.down = nn.Embedding(10_000_000, 8), nn.Linear(8, 12), nn.Linear(6, 2)

        def forward(self, ids):
            gate, up = self.both(self.table(ids)).chunk(2, -1)
            return self.down(gate.sigmoid() * up)

    with torch.device("meta"):
        exported = torch.export.export(Tower(), (torch.zeros(3, dtype=torch.long),))
    found = weight_structure(read(exported))
    assert sorted(found) == ["both.bias", "both.weight"]


def test_in_words():
    assert str(DimStructure(0, (8, 16), ())) == "dim 0: units of 8 or 16"
    assert str(DimStructure(1, (8,), (32, 16, 16))) == "dim 1: units of 8, parts 32 + 16 + 16"


def test_a_plain_layer_has_none():
    assert structure(nn.Linear(5, 7), torch.randn(2, 5)) == {}
