"""Programs that are said to have one graph file do: the bytes are compared."""

import itertools

import pytest
import torch

import shardwright as sw
from shardwright.package.alike import alike
from shardwright.package.save import _bare_bytes
from tests.support import inside
from tests.support.models import MEGATRON, Cache, Decoder, MLPs, redraw

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))
MLP_PLAN = {"mlps.*.0": "colwise", "mlps.*.2": "rowwise"}
CASES = {
    "equal pieces": (Decoder, (IDS,), 4, MEGATRON, 1),
    "two axes": (lambda: Decoder(layers=1), (IDS,), {"dp": 2, "tp": 2}, {"dp": MEGATRON, "tp": MEGATRON}, 1),
    "a state": (Cache, (torch.randn(2, 1, 16), torch.tensor([0])), 2, "auto", 1),
    "rows of a vocabulary": (lambda: Decoder(layers=1), (IDS,), 4, {"embed": "embedding_rowwise"}, 1),
    "uneven pieces": (MLPs, (torch.randn(4, 12),), 4, MLP_PLAN, 2),
    "a bias that one rank adds": (MLPs, (torch.randn(4, 12),), 3, MLP_PLAN, 1),
    # A loop's body is a graph of its own, which is not looked at.
    "a loop": (inside.Loop, (torch.randn(6, 8),), 2, {"up": "colwise", "down": "rowwise"}, 2),
}


@pytest.mark.parametrize(("make", "inputs", "mesh", "plan", "count"), CASES.values(), ids=CASES)
def test_ranks_that_are_alike_have_one_file(make, inputs, mesh, plan, count):
    sharded = sw.shard(torch.export.export(redraw(make()), inputs), mesh=mesh, plan=plan)
    programs = [sharded.rank_program(rank) for rank in range(sharded.mesh.num_ranks)]
    files = [_bare_bytes(program) for program in programs]
    groups = []
    for (one, mine), (other, theirs) in itertools.combinations(zip(programs, files, strict=True), 2):
        if alike(one, other):
            assert mine == theirs
    for program in programs:
        if not any(alike(program, first) for first in groups):
            groups.append(program)
    assert len(groups) == count


@pytest.mark.parametrize("meta", [{"stack_trace": "elsewhere"}, {"val": torch.zeros(3)}, {"custom": object()}])
def test_a_note_of_its_own_is_another_file(meta):
    sharded = sw.shard(torch.export.export(redraw(MLPs()), (torch.randn(4, 12),)), mesh=2, plan=MLP_PLAN)
    one, other = (sharded.rank_program(rank) for rank in range(2))
    assert alike(one, other)
    next(node for node in other.graph.nodes if node.op == "call_function").meta.update(meta)
    assert not alike(one, other)
