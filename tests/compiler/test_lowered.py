"""Ranks that run the same code are lowered once; what is of one rank is written for each."""

from unittest import mock

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.compiler import lowered
from shardwright.program.legal import CHECK_SWITCH, IllegalProgramError
from shardwright.program.nodes import RANGE
from shardwright.program.program import RankConstant
from tests.support.models import MEGATRON, Decoder

PLAN = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}


def decoder():
    torch.manual_seed(0)
    model = Decoder(2, width=32, heads=8, kv_heads=2, hidden=48, vocab=40).eval()
    ids = torch.randint(0, 40, (2, 6))
    return torch.export.export(model, (ids,)), ids


def linear(inner=8):
    torch.manual_seed(0)
    return torch.export.export(nn.Sequential(nn.Linear(8, inner), nn.Linear(inner, 8)), (torch.randn(3, 8),))


@pytest.mark.parametrize("mesh", [2, 8, {"dp": 2, "tp": 2}], ids=str)
def test_ranks_of_a_kind_are_lowered_once(mesh, monkeypatch):
    monkeypatch.setenv(CHECK_SWITCH, "0")
    exported, ids = decoder()
    sharded = sw.shard(exported, mesh=mesh, plan={"tp": PLAN} if isinstance(mesh, dict) else PLAN)
    with mock.patch.object(lowered, "lean", wraps=lowered.lean) as lean:
        programs = sharded.rank_programs()
        own = [sharded.rank_program(rank) for rank in range(len(programs))]
    assert lean.call_count == 1
    assert len({id(program.graph) for program in programs}) == 1
    assert len({id(program.graph) for program in own}) == len(own), "what is asked for may be changed"
    numbers = {tuple(w.tensor.item() for w in one.weights.values() if isinstance(w, RankConstant)) for one in programs}
    assert len(numbers) == (2 if isinstance(mesh, dict) else mesh)
    assert sw.verify(sharded, exported, (ids,)).ok


def test_512_ranks_share_one_graph(monkeypatch):
    monkeypatch.setenv(CHECK_SWITCH, "0")
    with torch.device("meta"):
        model = Decoder(1, width=512, heads=64, kv_heads=8, hidden=128, vocab=128).eval()
        exported = torch.export.export(model, (torch.zeros(8, 4, dtype=torch.long),))
    sharded = sw.shard(exported, mesh={"dp": 8, "tp": 64}, plan={"tp": PLAN})
    with mock.patch.object(lowered, "lean", wraps=lowered.lean) as lean:
        programs = sharded.rank_programs()
    assert (len(programs), lean.call_count, len({id(one.graph) for one in programs})) == (512, 1, 1)


@pytest.mark.parametrize("is_checked", [False, True])
def test_slices_start_where_a_rank_s_piece_does(is_checked, monkeypatch):
    monkeypatch.setenv(CHECK_SWITCH, str(int(is_checked)))
    exported = linear()
    sharded = sw.shard(exported, mesh=4, plan={"0": "rowwise"})
    with mock.patch.object(lowered, "lean", wraps=lowered.lean) as lean:
        programs = [sharded.rank_program(rank) for rank in range(4)]
    assert lean.call_count == (5 if is_checked else 1)
    for found in (programs, sharded.rank_programs()):
        starts = [next(n.args[2] for n in one.graph.nodes if "slice" in str(n.target)) for one in found]
        assert starts == [0, 2, 4, 6]
    assert sw.verify(sharded, exported, (torch.randn(3, 8),)).ok


def test_what_is_cut_again_is_written_for_each_rank():
    exported = linear()
    sharded = sw.shard(exported, mesh={"a": 2, "b": 2}, plan={"a": {"0": "rowwise"}, "b": {"0": "rowwise"}})
    assert sharded.compiled.finished((0, 0)).is_of_rank
    assert sw.verify(sharded, exported, (torch.randn(3, 8),)).ok


def test_kinds_have_graphs_of_their_own():
    exported = linear(7)
    sharded = sw.shard(exported, mesh=4, plan={"0": "colwise", "1": "rowwise"})
    programs = sharded.rank_programs()
    assert [one.graph is programs[0].graph for one in programs] == [True, True, True, False]
    assert sw.verify(sharded, exported, (torch.randn(3, 8),)).ok


def test_other_groups_are_other_code():
    exported, _ = decoder()
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    for name in ("zero", "one", "zero"):
        for rank in range(2):
            calls = sharded.rank_program(rank, group_names={"tp": name}).graph.nodes
            assert {node.args[-1] for node in calls if "all_reduce" in str(node.target)} == {name}


def test_code_that_is_shared_and_differs_is_found_by_the_checks():
    sharded = sw.shard(linear(), mesh=4, plan={"0": "rowwise"})
    first = sharded.compiled.finished((0,))
    for node in first.graph.nodes:
        node.meta.pop(RANGE, None)
    with pytest.raises(IllegalProgramError, match="of its kind"):
        sharded.rank_program(3)


def test_a_constant_of_every_rank_may_be_part_of_a_sum_on_another_axis():
    one = RankConstant(torch.tensor(3), axis="a", values=(3, 4)).with_cut(sw.Partial(), 0)
    assert isinstance(one, RankConstant)
    assert [one.of_rank(1).with_cut(sw.Partial(), rank).materialize().item() for rank in range(2)] == [4, 0]
