"""`lower` and `merge_collectives` give new programs; the one they are given stays what it was."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.compiler import axes
from shardwright.lean.lean import lean
from shardwright.partition.merge import merge_collectives
from shardwright.partition.message import UNPACKS
from shardwright.partition.templates import Templates
from shardwright.program.collectives import COLLECTIVES
from shardwright.program.nodes import graphs_of
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


def text(program):
    return "\n".join(
        f"{node.format_node()} {node.meta.get('collective')}"
        for graph in graphs_of(program.graph)
        for node in graph.nodes
    )


def num_collectives(program):
    return sum(node.target in COLLECTIVES for graph in graphs_of(program.graph) for node in graph.nodes)


class Branches(nn.Module):
    """A block in one branch, so that a subgraph holds a collective."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        block = lambda x: self.down(torch.relu(self.up(x))).sin()
        return torch.cond(x.sum() > 0, block, lambda x: x.sin(), (x,))


def test_collectives_and_names_of_a_lowered_program_stay_in_the_one_before():
    program = torch.export.export(redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64)), (IDS,))
    sharded = sw.shard(program, mesh=4, plan=MEGATRON)
    before = [str(one) for one in sharded.collectives]
    first = sharded.rank_program(0)
    assert num_collectives(first) == 0
    assert text(sharded.rank_program(0)) == text(first)
    assert [str(one) for one in sharded.collectives] == before
    assert sw.verify(sharded, program, (IDS,)).ok


def test_collectives_are_merged_in_a_copy(monkeypatch):
    seen = []

    def watched(program, *given):
        before = text(program)
        found = merge_collectives(program, *given)
        seen.append((before, text(program), text(found)))
        return found

    monkeypatch.setattr(axes, "merge_collectives", watched)
    program = torch.export.export(redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64)), (IDS,))
    sw.shard(program, mesh=4, plan=MEGATRON).rank_program(0)
    assert seen
    assert all(before == after != merged for before, after, merged in seen)


def test_subgraphs_with_collectives_are_lowered_in_a_copy():
    program = torch.export.export(Branches(), (torch.ones(4, 8),))
    sharded = sw.shard(program, mesh=2, plan={"up": "colwise", "down": "rowwise"})
    assert sharded.collectives
    assert text(sharded.rank_program(1)) == text(sharded.rank_program(1))
    assert num_collectives(sharded.rank_program(1)) == 0
    assert sw.verify(sharded, program, (torch.ones(4, 8),)).ok


@pytest.mark.parametrize("plan", [MEGATRON, "auto", {"layers.*.mlp.*_proj": "rowwise"}], ids=str)
def test_equal_collectives_are_lowered_as_the_first(plan, monkeypatch):
    program = torch.export.export(redraw(Decoder(layers=3, heads=8, kv_heads=2, width=64, hidden=64)), (IDS,))
    sharded = sw.shard(program, mesh=3, plan=plan)
    by_template = lowered(sharded)
    monkeypatch.setattr(Templates, "follow", lambda self, key, operands, name, write: write())
    assert by_template == lowered(sharded)
    assert any(UNPACKS in meta for _, meta in by_template)


def lowered(sharded):
    """The code of the first rank, each call with what is known of it."""
    program = lean(sharded.compiled.finished((0,)), sharded.schedule, {"tp": "tp"})
    return [(node.format_node(), {key: str(value) for key, value in node.meta.items()}) for node in program.graph.nodes]
