"""What makes programs lean is turned off one by one, and collectives are written as Inductor's patterns ask."""

import pytest
import torch
from torch._inductor.fx_passes.micro_pipeline_tp import find_all_gather_patterns, find_reduce_scatter_patterns

import shardwright as sw
from tests.support.lean import (
    APART,
    MODULATED,
    Apart,
    Modulated,
    assert_same_numbers,
    lean_programs,
    names,
    plain_programs,
)
from tests.support.models import MEGATRON, Decoder, redraw

X, TIME = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)), torch.randn(2, 4)
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
SEQUENCE = {**MEGATRON, "layers.*.norm[1,2]": "sequence_parallel", "norm": "sequence_parallel"}
COLLECTIVE = "_c10d_functional."
GATHER, SCATTER = (COLLECTIVE + name for name in ("all_gather_into_tensor", "reduce_scatter_tensor"))


def modulated(lean):
    exported = torch.export.export(redraw(Modulated()), (X, TIME))
    return sw.shard(exported, mesh=2, plan=MODULATED, lean=lean)


def test_without_all_of_it_programs_are_as_they_were_partitioned():
    sharded = modulated(lean=False)
    for lean, plain in zip(lean_programs(sharded), plain_programs(sharded), strict=True):
        assert names(lean) == names(plain)
    assert {one.message for one in sharded.collectives} == {0}
    assert names(modulated(lean=True).rank_program(0)) != names(plain_programs(sharded)[0])
    assert_same_numbers(sharded, (X, TIME))


def waits_at_once(program):
    """For each collective, whether what follows it waits for it."""
    starts = [node for node in program.graph.nodes if str(node.target).startswith((GATHER, COLLECTIVE + "all_reduce"))]
    return [node.next in node.users for node in starts]


def test_a_wait_stays_beside_its_collective():
    exported = torch.export.export(redraw(Apart()), (X,))
    beside, late = (sw.shard(exported, mesh=2, plan=APART, lean=how) for how in (sw.Lean(late_waits=False), True))
    assert waits_at_once(beside.rank_program(0)) == [True, True]
    assert waits_at_once(late.rank_program(0)) == [False, True]
    assert_same_numbers(beside, (X,))


def test_what_lean_takes_is_said():
    with pytest.raises(sw.ShardwrightError, match=r"lean must be True, False or Lean\(…\), got 'off'"):
        modulated("off")
    with pytest.raises(sw.ShardwrightError, match="late_waits must be True or False, got 1"):
        sw.Lean(late_waits=1)


def matched(program):
    """The gathers and the reduce-scatters in which Inductor sees one of a dim: (dim, its operand's shape)."""
    gathers = [
        (one.gather_dim, tuple(one.shard_node.meta["val"].shape)) for one in find_all_gather_patterns(program.graph)
    ]
    scatters = find_reduce_scatter_patterns(program.graph)
    return gathers, [(one.scatter_dim, tuple(one.input_node.meta["val"].shape)) for one in scatters]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_inductor_sees_gathers_and_scatters_of_the_sequence(num_ranks):
    exported = torch.export.export(redraw(Decoder(layers=2, kv_heads=4)), (IDS,))
    plain, sharded = (
        sw.shard(exported, mesh=num_ranks, plan=SEQUENCE, lean=how) for how in (True, sw.Lean(micro_pipeline=True))
    )
    width = exported.state_dict["norm.weight"].numel()
    gathers, scatters = matched(sharded.rank_program(1))
    assert set(scatters) == {(1, (2, 8, width))}
    assert (1, (2, 8 // num_ranks, width)) in gathers
    found = names(sharded.rank_program(1))
    assert (len(gathers), len(scatters)) == (found.count(GATHER), found.count(SCATTER))
    assert not any(dim for side in matched(plain.rank_program(1)) for dim, _ in side)
    assert sharded.collectives == plain.collectives
    assert sw.verify(sharded, exported, (IDS,)).ok


def test_a_sequence_of_unknown_length_is_joined_but_not_split():
    """How many parts a size has is only known of a number."""
    seq = torch.export.Dim("seq", min=2, max=64)
    exported = torch.export.export(redraw(Decoder(layers=1)), (IDS,), dynamic_shapes=({1: 2 * seq},))
    sharded = sw.shard(exported, mesh=2, plan=SEQUENCE, lean=sw.Lean(micro_pipeline=True))
    gathers, scatters = matched(sharded.rank_program(0))
    assert {dim for dim, _ in gathers} == {1}
    assert {dim for dim, _ in scatters} == {0}
    assert sw.verify(sharded, exported, (IDS,)).ok
