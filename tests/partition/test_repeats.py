"""A run of steps that is written after its equal is what it would be step by step."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.partition.partition import partition
from shardwright.partition.repeats import Repeats
from shardwright.program.nodes import RANGE
from tests.support.models import MEGATRON, Decoder, PackedAttention, redraw

KEYS = ("val", "torch_fn", "nn_module_stack", "stack_trace", "collective", RANGE)

X = torch.randn(2, 8, 48, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
BY_SEQUENCE = {"layers.*": {"style": "sequence_parallel"}}


class Layer(nn.Module):
    """A product of two values, which may be one, after a projection that two products read."""

    def __init__(self):
        super().__init__()
        self.attention = PackedAttention()
        self.up, self.gate, self.down = nn.Linear(48, 96), nn.Linear(48, 96), nn.Linear(96, 48)

    def forward(self, x, other):
        x = x + self.attention(x)
        wide = torch.relu(self.up(x) * self.gate(x))
        return x + self.down(wide * (wide if other is None else other)) / 8, wide


class Layers(nn.Module):
    """Layers of which each reads what the one before gave, every third one nothing; all read the first one's input."""

    def __init__(self, layers=7):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.scale = nn.Parameter(torch.ones(48))

    def forward(self, x):
        start, wide = x * self.scale, None
        for number, layer in enumerate(self.layers):
            x, wide = layer(x + start, wide if number % 3 else None)
        return x, wide


class Split(nn.Module):
    """Layers whose calls give several values, one of them unread."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(48, 144), Middle(), nn.Linear(48, 48)) for _ in range(5))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


class Middle(nn.Module):
    def forward(self, x):
        first, _, last = x.chunk(3, -1)
        return first.softmax(-1) * last.sum(-1, keepdim=True)


def text(program):
    nodes = [
        (node.name, node.target, str(node.args), str(node.kwargs), *(str(node.meta.get(key)) for key in KEYS))
        for node in program.graph.nodes
    ]
    return nodes, list(program.origins.items()), program.inputs, program.is_of_rank


def written(compiled, rank):
    """The program of a rank after every axis, by what each axis was assigned on the first rank's program."""
    return [
        text(partition(one.assignment.program, one.assignment, one.axis, min(rank, one.request.num_ranks - 1)))
        for one in compiled.axes
    ]


@functools.cache
def exported(model, args, batch=None):
    dims = ({0: torch.export.Dim(batch, min=2, max=64)},) if batch else None
    return torch.export.export(redraw(model), args, dynamic_shapes=dims)


@pytest.mark.parametrize("mesh", [2, 4, 5, {"dp": 2, "tp": 4}])
@pytest.mark.parametrize(
    ("model", "args", "plan"),
    [
        (Decoder(layers=5, kv_heads=2), (IDS,), MEGATRON),
        (Decoder(layers=5, kv_heads=2), (IDS,), "auto"),
        (Decoder(layers=5, kv_heads=8), (IDS,), "auto"),
        (Layers(), (X,), "auto"),
        (Layers(), (X,), {"layers.*.up": "colwise", "layers.*.gate": "colwise", "layers.*.down": "rowwise"}),
        (Split(), (X,), "auto"),
        (Split(), (X,), {"layers.*.0": "colwise", "layers.*.2": "rowwise"}),
    ],
)
def test_runs_change_nothing(model, args, plan, mesh, monkeypatch):
    sharded = sw.shard(exported(model, args), mesh=mesh, plan=plan)
    with_runs = [written(sharded.compiled, rank) for rank in (0, 3)]
    monkeypatch.setattr(Repeats, "runs", lambda self: ((i, i + 1) for i in range(len(self._items))))
    assert with_runs == [written(sharded.compiled, rank) for rank in (0, 3)]


@pytest.mark.parametrize("plan", [MEGATRON, "auto"])
def test_layers_of_unknown_sizes_are_written_alike(plan, monkeypatch):
    sharded = sw.shard(exported(Decoder(layers=4, kv_heads=2), (IDS,), "batch"), mesh=4, plan=plan)
    with_runs = written(sharded.compiled, 1)
    monkeypatch.setattr(Repeats, "runs", lambda self: ((i, i + 1) for i in range(len(self._items))))
    assert with_runs == written(sharded.compiled, 1)


def test_most_layers_are_copies(monkeypatch):
    copied = []
    found = sw.shard(exported(Decoder(layers=9, kv_heads=8), (IDS,)), mesh=4, plan=MEGATRON).compiled.axes[0].assignment
    write = Repeats.write

    def counted(self, start, end, one_by_one):
        steps = []
        write(self, start, end, lambda step: (steps.append(step), one_by_one(step)))
        copied.append(not steps)

    monkeypatch.setattr(Repeats, "write", counted)
    partition(found.program, found, "tp", 0)
    # The first layer reads what the embedding gave, and the second may read it in another layout.
    assert sum(copied) >= 7
