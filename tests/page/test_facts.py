"""What is known of a program and of a package."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.assign.hardware import cost_model
from shardwright.package.manifest import read_manifest
from shardwright.page.facts import package_facts
from shardwright.page.page import page_text
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(2, 8, dtype=torch.long)


@pytest.mark.parametrize(
    ("plan", "mesh"), [("auto", 3), (MEGATRON, 4), ({"tp": MEGATRON}, {"dp": 2, "tp": 2})], ids=["uneven", "few", "two"]
)
def test_a_package_says_as_much_but_for_compute(plan, mesh, tmp_path):
    sharded = sw.shard(torch.export.export(redraw(Decoder(heads=8, kv_heads=2)), (IDS,)), mesh=mesh, plan=plan)
    sharded.save(tmp_path / "package")
    facts = package_facts(tmp_path / "package", read_manifest(tmp_path / "package"), cost_model("h100"))
    assert facts.rank_bytes == sharded.rank_bytes
    assert [(w.name, w.rank_bytes) for w in facts.weights] == [(w.name, w.rank_bytes) for w in sharded.weights]
    assert {w.name: w.layouts for w in facts.weights} == {w.name: w.layouts for w in sharded.weights}
    sent = [(c.kind, c.axis, c.num_bytes, c.module, c.source, c.cause) for c in sharded.collectives]
    assert [(c.kind, c.axis, c.num_bytes, c.module, c.source, c.cause) for c in facts.collectives] == sent
    assert facts.times_us() == sharded.facts().times_us()
    assert facts.work_us == {}
    text = page_text(facts, title="A package")
    assert "only communication is predicted" in text
    assert "compute of the busiest rank" not in text


def test_times_add_up():
    sharded = sw.shard(torch.export.export(redraw(Decoder()), (IDS,)), mesh=2, plan=MEGATRON)
    facts = sharded.facts()
    assert sum(facts.times_us()) == pytest.approx(sharded.prediction.communication_us)
    assert sum(facts.work_us.values()) == pytest.approx(sharded.prediction.work_us)


class Modulated(nn.Module):
    """Layers that each read a small projection of the same input: what they need of it is sent as one message."""

    def __init__(self):
        super().__init__()
        self.ups = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.scales = nn.ModuleList(nn.Linear(4, 8) for _ in range(3))

    def forward(self, x, t):
        for up, scale in zip(self.ups, self.scales, strict=True):
            x = x + up(x).relu() * scale(t)
        return x


def test_what_a_package_sends_together_has_one_latency(tmp_path):
    exported = torch.export.export(redraw(Modulated()), (torch.randn(2, 8), torch.randn(2, 4)))
    sharded = sw.shard(exported, mesh=2, plan={"scales.*": "colwise_rep"})
    assert [c.message for c in sharded.collectives] == [1, 1, 1]
    sharded.save(tmp_path / "package")
    facts = package_facts(tmp_path / "package", read_manifest(tmp_path / "package"), cost_model(None))
    assert facts.times_us() == sharded.facts().times_us()
    assert sum(facts.times_us()) < 2 * sharded.cost.latency_us
