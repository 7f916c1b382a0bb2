"""A plan that cuts quantised values where they do not come apart is an error, which says where they do."""

import pytest
import torch

import shardwright as sw
from tests.support.quantized import INT4, PLAN, WEIGHT_ONLY, Block, quantized

INPUTS = (torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(7)).bfloat16(),)


def int4(hidden):
    exported, _ = quantized(INT4["int4"], Block(hidden=hidden), INPUTS, torch.bfloat16)
    return exported


def test_columns_of_int4_values():
    with pytest.raises(sw.PlanError) as caught:
        sw.shard(int4(128), mesh=2, plan=PLAN)
    (finding,) = caught.value.findings
    assert finding.what == (
        "plan entry 'down' cuts 'down.weight' in 2 along dim 1, but aten._weight_int4pack_mm_for_cpu.default takes its "
        "quantised values ('down.weight.qdata', torch.uint8 of shape (64, 64)) as they are packed: dim 0 does not come "
        "apart, dim 1 does not come apart; its scales are for groups of 32"
    )
    assert finding.where == "down"


def test_rows_of_int4_values_come_in_blocks():
    sharded = sw.shard(int4(128), mesh=2, plan={"up": "colwise"})
    up = next(w for w in sharded.weights if w.name == "up.weight.qdata")
    assert up.rank_bytes == (64 * 32, 64 * 32)
    scales = next(w for w in sharded.weights if w.name == "up.weight.scale_and_zero")
    assert scales.layouts["tp"].dim == 1
    with pytest.raises(sw.PlanError, match=r"'up.weight' in 2 along dim 0.*dim 0 does not come apart"):
        sw.shard(int4(96), mesh=2, plan={"up": "colwise"})


def test_the_automatic_plan_makes_no_such_cut():
    exported = int4(128)
    sharded = sw.shard(exported, mesh=3)
    assert not sharded.gathered_weights
    assert sw.verify(sharded, exported, INPUTS).ok


def test_groups_move_a_cut_rather_than_forbid_it():
    exported, inputs = quantized(WEIGHT_ONLY["intx by group"], Block(hidden=96))
    sharded = sw.shard(exported, mesh=2, plan={"down.weight": sw.Shard(1)})
    down = next(w for w in sharded.weights if w.name == "down.weight.qdata")
    assert [size // 64 for size in down.rank_bytes] == [64, 32]
    assert sw.verify(sharded, exported, inputs).ok
