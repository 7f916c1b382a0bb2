"""What is asked for is accepted as a whole: one error says everything that is wrong with it."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import PrepareModuleInput

import shardwright as sw

X = torch.ones(2, 8)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Mlp(), (X,))


TWO_INPUTS = PrepareModuleInput(
    input_layouts=(Replicate(), Shard(0)), desired_input_layouts=(Replicate(), Replicate()), use_local_output=True
)


def test_findings_of_all_axes_layouts_and_boundaries_come_at_once(program, monkeypatch):
    monkeypatch.setattr("shardwright.compiler.axes.assign_layouts", lambda *_, **__: pytest.fail("solved too early"))
    with pytest.raises(sw.PlanError) as raised:
        sw.shard(
            program,
            mesh={"a": 2, "b": 2},
            plan={"a": {"up.weight": sw.Shard(2)}, "b": {"down": TWO_INPUTS, "up.bias": sw.Shard(0)}},
            inputs={"a": {"y": sw.Shard(0)}, "b": {"z": sw.Shard(0)}},
            outputs={"a": {7: sw.Shard(0)}},
        )
    text = str(raised.value)
    assert text.startswith("the plan does not fit the program (5 problems)")
    for words in (
        "'up.weight' of shape (16, 8)",
        "has no input 'y'",
        "has no input 'z'",
        "has no output 7",
        "pins input 1 of module 'down', but the exported graph has no such tensor",
    ):
        assert text.count(words) == 1
    assert len(raised.value.findings) == 5


def test_what_is_wrong_on_both_axes_alike_is_said_once(program):
    with pytest.raises(sw.PlanError, match=r"\(1 problem\)"):
        sw.shard(program, mesh={"a": 2, "b": 2}, plan={"a": {"upp": "colwise"}, "b": {"upp": "colwise"}})


def test_an_error_that_is_alone_stays_as_it_is(program):
    with pytest.raises(sw.PlanError, match=r"^plan 'atuo' is neither 'auto', 'hf', 'diffusers' nor a file"):
        sw.shard(program, mesh=2, plan="atuo")


def test_a_plan_that_cannot_be_read_hides_nothing_else(program):
    with pytest.raises(sw.PlanError, match=r"(?s)plan 'atuo' is neither.*has no input 'y'"):
        sw.shard(program, mesh=2, plan="atuo", inputs={"y": sw.Shard(0)})


@pytest.mark.parametrize(
    "wrong", [{"slack": -1}, {"effort": 0}, {"time_limit_s": 0}, {"cost": 3}, {"budget": {"x": 1}}]
)
def test_options_are_looked_at_before_the_program(wrong):
    with pytest.raises(sw.ShardwrightError, match=next(iter(wrong))):
        sw.shard("no program", mesh=2, **wrong)
