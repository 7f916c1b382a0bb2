"""Cost models by name, and what they change: presets, near misses, and plans that differ where devices do."""

import re
from pathlib import Path

import pytest
import torch

import shardwright as sw
from shardwright.assign.hardware import PRESETS
from tests.support.models import Decoder
from tests.support.sharding import kinds

PAGE = Path(__file__).parents[2] / "docs" / "hardware.md"
IDS = torch.zeros(1, 128, dtype=torch.long)


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Decoder(layers=1, width=256, hidden=512, vocab=1024).eval(), (IDS,))


def test_a_preset_is_found_by_its_name_in_any_case():
    assert sw.cost_model("l4") == sw.cost_model("L4") == PRESETS["l4"]
    assert all(sw.cost_model(name).name == name for name in PRESETS)


def test_the_default_is_the_class_s_own_defaults():
    assert sw.cost_model() == sw.cost_model("h100") == sw.CostModel()
    assert sw.cost_model(sw.CostModel(latency_us=3)).latency_us == 3


def test_the_page_s_tables_are_what_the_presets_are():
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", PAGE.read_text(), flags=re.MULTILINE)
    written = {}
    for name, cells in rows:
        written.setdefault(name, []).append(
            [float(cell) for cell in cells.split("|") if re.fullmatch(r"[\d. ]+", cell)]
        )
    assert set(written) == set(PRESETS)
    for name, model in PRESETS.items():
        taken = [
            *(model.latency_us, model.link_bytes_per_us / 1e3, model.memory_bytes_per_us / 1e3),
            *(model.flops_per_us / 1e6, model.float32_flops_per_us / 1e6, model.reduce_scatter_passes, model.call_us),
        ]
        assert written[name][-1] == taken, name
        if len(written[name]) == 2:
            links, memory, flops, float32_flops = written[name][0]
            shares = 0.45 * links, 0.75 * memory, 0.4 * flops, 0.75 * float32_flops
            assert taken[1:5] == [float(f"{share:.2g}") for share in shares], name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("h10", "try: 'h100'"),
        ("cpu_gloo", "try: 'cpu-gloo'"),
        ("costs", "neither a device that there is a model of, nor a file"),
        ("", "neither a device"),
        ("no/where.json", "cannot read no/where.json"),
        (3, "cost must be a CostModel, the name of one or the path of its file, got 3"),
        (b"h100", "the path of its file, got b'h100'"),
    ],
)
def test_what_names_no_model_is_refused_with_what_is_close(program, given, says):
    with pytest.raises(sw.ShardwrightError, match=says):
        sw.shard(program, mesh=2, cost=given)


def test_where_a_collective_is_dear_to_start_there_are_fewer(program):
    dear, cheap = (sw.shard(program, mesh=2, cost=sw.CostModel(latency_us=latency)) for latency in (1e4, 1e-3))
    assert len(dear.collectives) < len(cheap.collectives)


def test_a_reduce_scatter_that_costs_an_all_reduce_is_not_taken():
    class Summed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)

        def forward(self, x):
            return self.down(self.up(x)).relu().sin()

    program = torch.export.export(Summed(), (torch.randn(2, 4096, 64),))
    # The work after the sum is halved where it is scattered, for the gather of the result.
    costs = [
        sw.CostModel(latency_us=1, link_bytes_per_us=1e3, memory_bytes_per_us=1e4, reduce_scatter_passes=passes)
        for passes in (1, 2)
    ]
    once, twice = (kinds(sw.shard(program, mesh=2, cost=cost)) for cost in costs)
    assert once == {"reduce_scatter": 1, "all_gather": 1}
    assert twice == {"all_reduce": 1}


def test_a_mesh_of_cpus_is_priced_as_one(program):
    class Cpus:
        device_type, mesh_dim_names, shape = "cpu", ("tp",), (2,)

    assert sw.shard(program, mesh=Cpus(), plan={}).cost.name == "cpu"
    assert sw.shard(program, mesh=Cpus(), plan={}, cost="l4").cost.name == "l4"
    assert sw.shard(program, mesh=2, plan={}).cost.name == "h100"
