"""Architectures from transformers in training: loss and gradients of one process, under plans of their own or none."""

from collections import Counter

import pytest
import torch

import shardwright as sw
from tests.support.architectures import SMALL, build
from tests.support.training import InDouble, next_token

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

DRAWN = torch.randint(3, 96, (4, 9), generator=torch.Generator().manual_seed(5))
IDS, TARGET = DRAWN[:, :-1], DRAWN[:, 1:].masked_fill(DRAWN[:, 1:] > 70, -100)
"""Each sequence has other numbers of targets that count."""


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "falcon", "mixtral"])
def test_two_axes(kind):
    model = InDouble(build(kind, num_hidden_layers=1, n_layer=1)).train()
    joint = sw.export_training(model, (IDS, TARGET), loss=next_token)
    inputs = {"dp": {"ids": sw.Shard(0), "target": sw.Shard(0)}}
    sharded = sw.shard(joint, mesh={"dp": 2, "tp": 2}, plan={"tp": "auto"}, inputs=inputs)
    report = sw.verify(sharded, joint, (IDS, TARGET), tolerance=1e-9)
    assert report.ok, str(report)
    # A key's bias moves all scores of a query alike: its gradient is 0 but for rounding.
    assert all("key.bias" in one.name for one in report.rounded)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {check.name.removeprefix("gradient of ") for check in report.gradients} <= trained


def test_a_model_brings_its_plan_and_its_loss():
    config = transformers.LlamaConfig(**{k: v for k, v in SMALL.items() if hasattr(transformers.LlamaConfig(), k)})
    model = transformers.LlamaForCausalLM(config).double().train()
    given = {"input_ids": IDS, "labels": IDS, "use_cache": False}
    joint = sw.export_training(model, (), given)
    sharded = sw.shard(joint, mesh=2, plan="hf")
    report = sw.verify(sharded, joint, (), given)
    assert report.ok, str(report)
    in_blocks = Counter(c.module.split(".")[2] for c in sharded.collectives if c.module.startswith("model.layers."))
    assert in_blocks == {"0": 4, "1": 4}
