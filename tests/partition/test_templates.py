"""A step that is written after its equal's template is what it would be by itself."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.partition.partition import partition
from shardwright.partition.templates import Templates
from shardwright.program.nodes import RANGE
from tests.support.models import MEGATRON, Decoder, PackedAttention, redraw

KEYS = ("val", "torch_fn", "collective", RANGE)

X = torch.randn(2, 8, 48, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


class Stack(nn.Module):
    """Layers of attention and a product that reads one value twice in one layer, and two values in the next."""

    def __init__(self, layers=4):
        super().__init__()
        self.layers = nn.ModuleList(PackedAttention() for _ in range(layers))
        self.ups = nn.ModuleList(nn.Linear(48, 96) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(96, 48) for _ in range(layers))

    def forward(self, x):
        last = None
        for layer, up, down in zip(self.layers, self.ups, self.downs, strict=True):
            wide = torch.relu(up(layer(x)))
            last, other = wide, wide if last is None else last
            x = x + down(wide * other) / 8
        return x


def written(found, rank):
    program = partition(found.program, found, "tp", rank)
    return [
        (node.name, node.target, str(node.args), str(node.kwargs), *(str(node.meta.get(key)) for key in KEYS))
        for node in program.graph.nodes
    ]


@functools.cache
def exported(model, args):
    return torch.export.export(redraw(model), args)


@pytest.mark.parametrize("ranks", [2, 4, 5])
@pytest.mark.parametrize(
    ("model", "args", "plan"),
    [
        (Decoder(layers=4, kv_heads=8), (IDS,), MEGATRON),
        (Decoder(layers=4, kv_heads=8), (IDS,), "auto"),
        (Stack(), (X,), "auto"),
        (Stack(), (X,), {"ups.*": "colwise", "downs.*": "rowwise", "layers.*.qkv": "colwise"}),
    ],
)
def test_templates_change_nothing(model, args, plan, ranks, monkeypatch):
    program = exported(model, args)
    sharded = sw.shard(program, mesh=ranks, plan=plan)
    found = sharded.compiled.axes[0].assignment
    with_templates = [written(found, rank) for rank in (0, ranks - 1)]
    monkeypatch.setattr(Templates, "follow", lambda self, key, operands, name, write: write())
    assert with_templates == [written(found, rank) for rank in (0, ranks - 1)]
    assert sw.verify(sharded, program, args).ok
