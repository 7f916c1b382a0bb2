"""Measuring a machine: constants fitted to known times, and real ranks that measure."""

import json

import pytest
import torch

import shardwright as sw
from shardwright.program.collectives import CollectiveKind
from shardwright.run.calibrate import PIECES_OF_WORK, SIZES, Measured, behind_work, fit
from shardwright.run.timing import seconds_in_turn, usual

TRUE = sw.CostModel(
    latency_us=25,
    link_bytes_per_us=2e3,
    memory_bytes_per_us=1.2e4,
    flops_per_us=2e5,
    float32_flops_per_us=7e4,
    reduce_scatter_passes=2,
    call_us=2.5,
)


def measured(num_ranks, times=lambda us: us):
    collectives = {
        (kind, size): times(TRUE.collective_us(kind, size, num_ranks)) for kind in CollectiveKind for size in SIZES
    }
    work = {
        name: getattr(TRUE, name) for name in ("memory_bytes_per_us", "flops_per_us", "float32_flops_per_us", "call_us")
    }
    return Measured(device="CPU", transport="gloo", threads=1, collectives=collectives, **work)


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_times_that_follow_the_model_give_the_model(num_ranks):
    found = fit([measured(num_ranks)] * num_ranks)
    assert found.constants() == pytest.approx(TRUE.constants(), rel=1e-2)
    assert found.name == f"{num_ranks} × CPU through gloo"


def test_the_slowest_rank_counts_in_collectives():
    found = fit([measured(2), measured(2, lambda us: 2 * us)])
    assert found.latency_us == pytest.approx(50, rel=1e-2)
    assert found.link_bytes_per_us == pytest.approx(1e3, rel=1e-2)


def test_times_without_sense_still_give_a_model():
    # Large ones faster than small ones, as on a machine that was busy at first.
    odd = Measured(
        "CPU", "gloo", 1, {(kind, size): 1e6 / size for kind in CollectiveKind for size in SIZES}, 1, 1, 1, 0
    )
    assert min(value for name, value in fit([odd, odd]).constants().items() if name != "call_us") > 0


def test_a_collective_is_called_behind_every_piece_of_work():
    made = []
    rounds = behind_work({CollectiveKind.ALL_REDUCE: lambda: made.append(1)}, torch.device("cpu"))
    rounds[None]()
    assert made == []
    rounds[CollectiveKind.ALL_REDUCE]()
    assert len(made) == PIECES_OF_WORK


def test_calls_are_made_in_turn_and_the_first_round_is_not_counted():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in ("a", "b")}
    found = seconds_in_turn(
        calls, 2, before=lambda name: made.append(f"before {name}"), after=lambda: made.append("after")
    )
    assert made == ["before a", "a", "after", "before b", "b", "after"] * 3
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}


def test_the_usual_time_is_that_of_an_undisturbed_call():
    assert usual([1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0]) == 1.0
    assert usual([3.0]) == 3.0


@pytest.mark.ranks
def test_two_ranks_measure_this_machine(tmp_path):
    path = tmp_path / "cost.json"
    model = sw.calibrate(2, path, transport="gloo", threads=1, timeout_s=60)
    assert sw.cost_model(path) == model
    assert model.name == "2 × CPU through gloo"
    said = json.loads(path.read_text())["measured"]
    assert (said["ranks"], said["transport"], said["threads"]) == (2, "gloo", 1)
    assert set(said["collectives_us"]) >= {f"{kind} 4096" for kind in CollectiveKind}
    with pytest.raises(sw.ShardwrightError, match="exists already"):
        sw.calibrate(2, path)


@pytest.mark.parametrize("num_ranks", [1, 0, "2", None])
def test_one_rank_has_no_collectives_to_measure(num_ranks):
    with pytest.raises(sw.RunError, match="number of ranks must be a whole number of at least 2"):
        sw.calibrate(num_ranks)
