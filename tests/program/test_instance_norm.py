"""Instance norms that keep statistics: the kernel's numbers, and buffers that the program says it writes."""

import copy

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program.flatten import functional

KINDS = {
    "affine": lambda: nn.InstanceNorm1d(6, affine=True, track_running_stats=True, momentum=0.3),
    "plain": lambda: nn.InstanceNorm1d(6, track_running_stats=True, eps=1e-3),
    "beside_one_that_keeps_none": lambda: nn.Sequential(
        nn.InstanceNorm1d(6), nn.InstanceNorm1d(6, track_running_stats=True)
    ),
}


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_out_is_what_the_kernel_gives_and_keeps(kind, unknown):
    model, x = KINDS[kind]().double().train(), torch.randn(4, 6, 5).double()
    sizes = {"input": {0: torch.export.Dim("batch", min=2)}} if unknown else None
    exported = torch.export.export(model, (x,), dynamic_shapes=sizes)
    assert not exported.graph_signature.buffers_to_mutate, "the schema of the operator does not say that it writes"
    written = functional(exported)
    assert len(written.graph_signature.buffers_to_mutate) == 2
    original, module = copy.deepcopy(model), written.module()
    for given in (x, torch.randn(7 if unknown else 4, 6, 5).double() * 3 + 1):
        torch.testing.assert_close(module(given), original(given), rtol=0, atol=1e-12)
    kept = dict(module.named_buffers())
    for name, wanted in original.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(kept[name], wanted, rtol=0, atol=1e-12)


def test_every_rank_says_what_it_writes():
    model, x = KINDS["affine"]().double().train(), torch.randn(4, 6, 5).double()
    exported = torch.export.export(model, (x,))
    sharded = sw.shard(exported, mesh=2, plan={}, inputs={"input": sw.Shard(0)}, outputs={0: sw.Shard(0)})
    report = sw.verify(sharded, exported, (x,), tolerance=1e-9)
    assert report.ok, str(report)
    assert len(sharded.exported(1).graph_signature.buffers_to_mutate) == 2


def test_one_that_reads_its_statistics_stays_one_operator():
    model, x = KINDS["affine"]().eval(), torch.randn(4, 6, 5)
    exported = torch.export.export(model, (x,))
    assert functional(exported) is exported
