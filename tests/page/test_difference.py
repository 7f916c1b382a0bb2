"""What two programs differ in."""

import torch

import shardwright as sw
from shardwright.page.difference import compare
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(2, 8, dtype=torch.long)
MLP = {key: style for key, style in MEGATRON.items() if "mlp" in key}


def facts(plan, mesh=2, layers=3):
    return sw.shard(torch.export.export(redraw(Decoder(layers=layers)), (IDS,)), mesh=mesh, plan=plan).facts()


def test_the_same_plan_differs_in_nothing():
    difference = compare(facts(MEGATRON), facts(MEGATRON))
    assert difference.is_empty
    assert all(one.values[0] == one.values[1] for one in difference.totals)


def test_two_plans():
    difference = compare(facts(MLP), facts(MEGATRON))
    assert {(w.name, w.count, w.layouts) for w in difference.weights} == {
        (f"layers.*.self_attn.{name}_proj.weight", 3, ("tp: whole", f"tp: Shard({dim})"))
        for name, dim in (("q", 0), ("k", 0), ("v", 0), ("o", 1))
    }
    (q,) = [w for w in difference.weights if "q_proj" in w.name]
    assert q.rank_bytes == (3 * 4 * 64 * 64, 3 * 4 * 64 * 32)
    (sent,) = difference.collectives
    assert (sent.kind, sent.module, sent.counts) == ("all_reduce", "layers.*.self_attn.o_proj", (0, 3))
    totals = {one.what: one.values for one in difference.totals}
    assert totals["collectives"] == (3, 6)
    assert totals["predicted communication"][0] * 2 == totals["predicted communication"][1]


def test_other_ranks_and_other_layers():
    difference = compare(facts(MLP, mesh=2), facts(MLP, mesh=4))
    assert {w.name for w in difference.weights} == {
        f"layers.*.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    }
    deeper = compare(facts(MLP, layers=1), facts(MLP, layers=2))
    assert {w.layouts[0] for w in deeper.weights} == {""}
    assert [c.counts for c in deeper.collectives] == [(1, 2)]


def test_weights_of_another_dtype_differ():
    both = [
        sw.shard(torch.export.export(redraw(Decoder(layers=1)).to(dtype), (IDS,)), mesh=2, plan=MLP).facts()
        for dtype in (torch.float32, torch.float64)
    ]
    assert len(compare(*both).weights) == len(both[0].weights)
