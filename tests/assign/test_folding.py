"""Equal steps of equal layers are one site; what differs in shape, pin or wiring is not."""

import torch
from torch import nn

from shardwright.layout.layout import REPLICATE
from shardwright.plan.pins import Pins
from tests.support.models import MLPs
from tests.support.tasks import site_of, task_of

X = torch.randn(4, 12)


def weights(task, name):
    return [step.node.name for step in site_of(task, name).steps]


def test_equal_layers_share_every_site():
    two, five = (task_of(MLPs(layers), (X,)) for layers in (2, 5))
    assert len(two.folded.sites) == len(five.folded.sites) < len(two.steps.items)
    assert weights(five, "p_mlps_0_0_weight") == [f"p_mlps_{i}_0_weight" for i in range(5)]


def test_a_layer_with_a_pin_of_its_own_is_apart():
    task = task_of(MLPs(3), (X,), pins=Pins(state={"p_mlps_1_0_weight": REPLICATE}))
    assert weights(task, "p_mlps_0_0_weight") == ["p_mlps_0_0_weight", "p_mlps_2_0_weight"]
    assert weights(task, "p_mlps_1_0_weight") == ["p_mlps_1_0_weight"]
    # All that belongs to the layer is apart with it.
    assert weights(task, "p_mlps_1_2_weight") == ["p_mlps_1_2_weight"]


def test_layers_of_one_matrix_are_left_alone():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    task = task_of(model, (torch.randn(4, 6),))
    assert len(task.folded.sites) == len(task.steps.items)


def test_values_are_counted_once_for_all_layers():
    task = task_of(MLPs(5), (X,))
    up = site_of(task, "p_mlps_0_0_weight").index
    (count,) = [count for (source, _, _), count in task.folded.values.items() if source == up]
    assert count == 5
