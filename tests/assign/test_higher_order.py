"""Higher-order operators are cut inside: branches, loops and maps between two linears cost the one all-reduce."""

import io
from collections import Counter

import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as map_rounds
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import shardwright as sw


def branches(h):
    return torch.cond(h.new_ones(()) > 0, lambda h: h.sin() * 2, lambda h: h.cos() + 1, (h,))


def grouped_branches(h):
    def by_group(h):
        return torch.softmax(h.view(6, 4, 3), -1).view(6, 12) + h.t().contiguous().t()

    return torch.cond(h.new_ones(()) > 0, by_group, lambda h: h.cos(), (h,))


def rounds(h):
    return map_rounds(lambda row, scale: torch.relu(row) * scale, h, h[0] + 1)


def running(h):
    _, every = scan(lambda carry, row: (carry * 0.5 + row, (carry + row).tanh()), torch.zeros(12), h)
    return every


def repeated(h):
    return while_loop(lambda i, h: i < 4, lambda i, h: (i + 1, (h * 1.5).tanh()), (torch.tensor(0), h))[1]


def nested(h):
    def outer(row, scale):
        return torch.cond(scale.new_ones(()) > 0, lambda a, b: a * b, lambda a, b: a + b, (row, scale))

    return map_rounds(outer, h, h[0] + 1)


def reduced(h):
    return torch.cond(h.new_ones(()) > 0, lambda h: h - h.mean(-1, keepdim=True), lambda h: h.cos(), (h,))


def mixed(h):
    return torch.cond(h.new_ones(()) > 0, lambda h: (h @ h.t()) @ h, lambda h: torch.linalg.qr(h @ h.t())[0] @ h, (h,))


class Between(nn.Module):
    """A function between a linear cut by columns and one cut by rows."""

    def __init__(self, function):
        super().__init__()
        self.up, self.down, self.function = nn.Linear(8, 12), nn.Linear(12, 8), function

    def forward(self, x):
        return self.down(self.function(self.up(x)))


PLAN = {"up": "colwise", "down": "rowwise"}


def sharded(function, num_ranks, x):
    torch.manual_seed(0)
    exported = torch.export.export(Between(function).eval(), (x,))
    return sw.shard(exported, mesh=num_ranks, plan=PLAN), exported


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
@pytest.mark.parametrize("function", [branches, rounds, running, repeated, nested])
def test_what_works_on_pieces_is_cut_inside(function, num_ranks):
    x = torch.randn(6, 8)
    result, exported = sharded(function, num_ranks, x)
    assert sw.verify(result, exported, (x,)).ok
    assert Counter(c.kind for c in result.collectives) == {"all_reduce": 1}
    assert not result.fallbacks


@pytest.mark.parametrize("function", [reduced, grouped_branches])
def test_what_would_communicate_inside_gets_the_whole(function):
    x = torch.randn(6, 8)
    result, exported = sharded(function, 2, x)
    assert sw.verify(result, exported, (x,)).ok
    assert Counter(c.kind for c in result.collectives) == {"all_gather": 1, "all_reduce": 1}


def test_a_subgraph_that_cannot_be_cut_at_all_is_reported():
    x = torch.randn(6, 8)
    result, _ = sharded(mixed, 2, x)
    assert [(f.op, f.reason) for f in result.fallbacks] == [
        ("cond", "nothing in the graphs it calls can be cut without communication")
    ]


def test_the_original_keeps_its_subgraphs_and_ranks_save_theirs():
    x = torch.randn(6, 8)
    result, exported = sharded(repeated, 2, x)
    before = {name for name, _ in exported.graph_module.named_modules()}
    whole = exported.module()(x)
    buffer = io.BytesIO()
    torch.export.save(result.exported(1), buffer)
    buffer.seek(0)
    assert torch.export.load(buffer).graph_module.code
    assert {name for name, _ in exported.graph_module.named_modules()} == before
    assert torch.equal(exported.module()(x), whole)


def test_layers_that_differ_only_inside_their_subgraphs_are_told_apart():
    class Layer(nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.up, self.down, self.inside = nn.Linear(8, 12), nn.Linear(12, 8), inside

        def forward(self, x):
            return self.down(torch.cond(x.new_ones(()) > 0, self.inside, lambda h: h.cos(), (self.up(x),)))

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Layer(lambda h: h.sin()), Layer(lambda h: h.softmax(-1))])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    x = torch.randn(6, 8)
    exported = torch.export.export(Stack().eval(), (x,))
    result = sw.shard(exported, mesh=2, plan={"layers.*.up": "colwise", "layers.*.down": "rowwise"})
    assert sw.verify(result, exported, (x,)).ok
    # The second layer's softmax runs along the dim that is cut, so what enters its subgraph is gathered.
    gathers = [c.module for c in result.collectives if c.kind == "all_gather"]
    assert [module.split(".")[1] for module in gathers] == ["1"]


def test_a_second_axis_cuts_the_subgraphs_again():
    x = torch.randn(8, 8)
    torch.manual_seed(0)
    exported = torch.export.export(Between(repeated).eval(), (x,))
    result = sw.shard(
        exported,
        mesh={"dp": 2, "tp": 2},
        plan={"tp": PLAN},
        inputs={"dp": sw.Shard(0)},
        outputs={"dp": sw.Shard(0)},
    )
    assert Counter(c.kind for c in result.collectives) == {"all_reduce": 1}
    for rank, out in enumerate(result.simulate(x)):
        torch.testing.assert_close(out, exported.module()(x).chunk(2)[rank // 2])
