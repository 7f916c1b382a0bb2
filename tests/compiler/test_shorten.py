"""Which layers of a program stand for others, by what is asked of them."""

import pytest
import torch

import shardwright as sw
from shardwright.layout.layout import REPLICATE
from tests.support.both_ways import assert_same, both_ways, is_deepened
from tests.support.models import MEGATRON, Decoder

LAYERS = 9


@pytest.fixture(scope="module")
def exported():
    model = Decoder(LAYERS, width=16, heads=4, kv_heads=4, hidden=16).eval()
    return torch.export.export(model, (torch.zeros(2, 4).long(),))


@pytest.mark.parametrize(
    "plan",
    [
        {"layers.5.mlp.up_proj": "replicate"},
        {"layers.[4,5,6,7].mlp.up_proj": "colwise"},
        {f"layers.{number}.mlp.up_proj": "colwise" for number in range(LAYERS)},
    ],
    ids=["one layer", "some layers", "a key a layer"],
)
def test_layers_that_a_plan_names_by_themselves_are_compiled_by_themselves(exported, plan):
    found, wanted = both_ways(exported, mesh=2, plan=plan)
    assert not is_deepened(found)
    assert_same(found, wanted)


def test_layouts_of_the_programs_own_inputs_and_outputs(exported):
    found, wanted = both_ways(exported, mesh=2, plan=MEGATRON, inputs={"ids": sw.Shard(0)}, outputs=sw.Shard(0))
    assert is_deepened(found)
    assert_same(found, wanted)


def test_a_budget_counts_every_layer(exported):
    sharded = sw.shard(exported, mesh=2, plan=MEGATRON)
    assert len(sharded.collectives) >= 2 * LAYERS
    with pytest.raises(sw.BudgetError):
        sw.shard(exported, mesh=2, plan=MEGATRON, budget={"all_reduce": 2 * LAYERS - 1})
    assert all(weight.layouts["tp"] == REPLICATE for weight in sharded.weights if "norm" in weight.name)
