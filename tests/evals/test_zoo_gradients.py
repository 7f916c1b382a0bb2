"""What the zoo says of training: operators of both passes, those without a rule, and sums over model types."""

import pytest
import torch
from torch import nn

import shardwright as sw

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from evals.zoo.gradients import joint, without_rules
from evals.zoo.gradients_card import summary

from shardwright.rules import REGISTRY


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 6), nn.Dropout(0.5)

    def forward(self, x):
        return {"logits": self.drop(torch.nn.functional.gelu(self.layer(x))), "length": x.shape[0]}


def test_operators_of_both_passes_are_told_apart():
    made = joint(Model(), {"x": torch.randn(3, 4)})
    found = without_rules(made.program)
    assert (found["verdict"], made.way) == ("ok", "train")
    assert found["called"]["forward"]["aten.gelu.default"] == 1
    assert found["called"]["backward"]["aten.gelu_backward.default"] == 1
    entry = REGISTRY.entry_named("aten::mm")
    REGISTRY.remove("aten::mm")
    try:
        lacking = without_rules(made.program)
    finally:
        REGISTRY.add("aten::mm", entry)
    assert lacking["verdict"] == "no rule"
    assert lacking["without_rule"] == {"forward": {}, "backward": {"aten.mm.default: no rule is registered": 1}}


class Choosy(Model):
    """A model that its own check keeps from being traced in training mode."""

    def forward(self, x):
        if self.training and x.sum() > 0:
            raise ValueError("no")
        return super().forward(x)


def test_the_mode_for_inference_is_taken_where_training_mode_gives_no_program():
    assert joint(Choosy(), {"x": torch.randn(3, 4)}).way == "eval"


class Sized(Model):
    """A model that reads off the values of an input what to compute."""

    def forward(self, x, image_sizes):
        return torch.cat([super(Sized, self).forward(x[:2] if n > 2 else x)["logits"] for n in image_sizes.tolist()])


def test_what_describes_sizes_is_held_where_its_values_are_read():
    made = joint(Sized(), {"x": torch.randn(3, 4), "image_sizes": torch.tensor([1, 3])})
    assert made.way == "train with sizes held"
    assert made.inputs.keys() == {"x", "target"}
    found = without_rules(made.program)
    assert found["called"]["backward"]["aten.gelu_backward.default"] == 2


def test_nothing_to_train_is_said():
    with pytest.raises(sw.ProgramError):
        joint(nn.Identity(), {"input": torch.randn(3, 4)})


def record(kind, *, mode, called, lacking=None):
    empty = {"forward": {}, "backward": {}}
    found = {"called": {**empty, "backward": called}, "without_rule": {**empty, "backward": lacking or {}}}
    return {"type": kind, "plan": "rules", "verdict": "ok", "mode": mode, **found, "uncut": empty}


def test_types_are_summed_up():
    records = {
        "a": record("a", mode="train", called={"aten.mm.default": 4}),
        "b": record("b", mode="eval", called={"aten.mm.default": 2, "aten.x": 1}, lacking={"aten.x: no rule": 1}),
        "c": {"type": "c", "plan": "", "verdict": "not exportable", "reason": "it has no tensors"},
    }
    assert summary(records).splitlines() == [
        "2 types give a joint program (1 train, 1 eval mode); no program: 1 not exportable",
        "7 calls of 2 operators in backward passes",
        "1 types with a rule for every one of them",
        "no rule: aten.x: no rule (1 types)",
        "not exportable: c: it has no tensors",
    ]
