"""What is settled before layouts are chosen: pins, buffers that are mutated, tied weights, what nothing reads."""

import pytest
import torch
from torch import nn

from shardwright.assign.given import read_given
from shardwright.errors import PlanError
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Shard
from shardwright.plan.pins import Pins
from tests.support.tasks import site_of, task_of

X = torch.randn(4, 8)


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.register_buffer("total", torch.zeros(8))

    def forward(self, x):
        y = self.second(self.first(x))
        self.total.add_(y.sum(0))
        return y


def test_a_mutated_buffer_and_the_output_that_is_its_new_value_have_one_layout():
    task = task_of(Held(), (X,))
    (output,) = [s for s in task.folded.sites if s.step.kind == "output" and s.step.output in task.program.mutations()]
    assert read_given(task).links[output.index] == (site_of(task, "b_total").index, 1)


def test_names_of_a_tied_weight_are_linked():
    task = task_of(Held(), (X,))
    given = read_given(task)
    sites = {site_of(task, name).index for name in ("p_first_weight", "p_second_weight")}
    ((linked, (leader, num_dims)),) = [item for item in given.links.items() if item[0] in sites]
    assert ({linked, leader}, num_dims) == (sites, 2)
    assert sites <= given.linked


def test_what_nothing_reads_is_known_and_ties_are_no_part_of_it():
    task = task_of(Held(), (X,))
    unread = {task.folded.sites[index].step.node.name for index in read_given(task).unread}
    assert unread == {"p_idle_weight", "p_idle_bias"}


def test_pins_and_inputs_are_settled_and_other_state_is_free():
    cut = Shard(0, Cut.even(8, 2))
    pins = Pins(state={"p_idle_weight": cut, "p_first_bias": cut}, free_cut=frozenset({"p_first_bias"}))
    task = task_of(Held(), (X,), pins=pins)
    given = read_given(task)
    assert given.pinned == {site_of(task, "p_idle_weight").index: cut, site_of(task, "x").index: REPLICATE}
    free = {task.folded.sites[index].step.node.name for index in given.free_state}
    assert free == {"p_first_weight", "p_first_bias", "p_second_weight", "p_second_bias", "p_idle_bias", "b_total"}


def test_a_pin_that_does_not_fit_an_input_names_it():
    task = task_of(Held(), (X,), pins=Pins(inputs={"x": Shard(2)}))
    with pytest.raises(PlanError, match="'x'"):
        read_given(task)
