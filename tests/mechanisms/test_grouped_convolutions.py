"""Grouped convolutions: whole groups are cut, or the channels within every group, in blocks with one collective."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.harness import t

SHAPES = {1: (10,), 2: (5, 4), 3: (4, 3, 3)}


def block(dims, groups, *, transposed=False, narrow=24, wide=144):
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    return nn.Sequential(
        kind(narrow, wide, 3, padding=1, groups=groups), nn.GELU(), kind(wide, narrow, 3, padding=1, groups=groups)
    )


def exported_with(model, x, *, decompose=False):
    with torch.no_grad():
        exported = torch.export.export(model.eval(), (x,))
    return exported.run_decompositions() if decompose else exported


@functools.cache
def exported_block(groups):
    return exported_with(block(1, groups), t(2, 24, 10))


def sharded(model, x, num_ranks, plan, *, decompose=False):
    return shard(exported_with(model, x, decompose=decompose), x, num_ranks, plan)


def shard(exported, x, num_ranks, plan):
    result = sw.shard(exported, mesh=num_ranks, plan=plan)
    report = sw.verify(result, exported, (x,))
    assert report.ok, str(report)
    assert not result.fallbacks
    return result


def share(result):
    return max(result.rank_bytes) / sum(weight.num_bytes for weight in result.weights)


@pytest.mark.parametrize("plan", ["auto", {"0": "colwise", "2": "rowwise"}], ids=["auto", "plan"])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("num_ranks", [3, 4])
def test_a_block_takes_one_collective_and_its_share(num_ranks, groups, plan):
    result = shard(exported_block(groups), t(2, 24, 10), num_ranks, plan)
    # Where groups divide by ranks, whole groups may be cut throughout, and the result is then gathered instead.
    assert [c.kind for c in result.collectives] in (["all_reduce"], ["all_gather"])
    assert share(result) < 1 / num_ranks + 0.02


@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_kind(dims, transposed, decompose):
    model = block(dims, 2, transposed=transposed)
    result = sharded(model, t(2, 24, *SHAPES[dims]), 4, {"0": "colwise", "2": "rowwise"}, decompose=decompose)
    assert [c.kind for c in result.collectives] == ["all_reduce"]
    assert share(result) < 0.27


@pytest.mark.parametrize(("groups", "wide"), [(2, 14), (3, 15), (2, 6)], ids=["uneven", "odd", "a rank without"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
def test_channels_that_do_not_divide(transposed, groups, wide):
    x = t(2, 6, 10)
    exported = exported_with(block(1, groups, transposed=transposed, narrow=6, wide=wide), x)
    for num_ranks in (2, 4):
        shard(exported, x, num_ranks, "auto")
    result = shard(exported, x, 2, {"0": "colwise", "2": "rowwise"})
    assert [c.kind for c in result.collectives] == ["all_reduce"]


def test_a_depthwise_convolution_between_two_others_takes_no_collective():
    model = nn.Sequential(
        nn.Conv2d(16, 48, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.ReLU(), nn.Conv2d(48, 16, 1)
    )
    result = sharded(model, t(2, 16, 6, 5), 4, {"0": "colwise", "4": "rowwise"})
    assert [c.kind for c in result.collectives] == ["all_reduce"]
    assert share(result) < 0.27


def test_groups_that_change_between_convolutions():
    model = nn.Sequential(nn.Conv1d(24, 96, 3, groups=2), nn.ReLU(), nn.Conv1d(96, 24, 3, groups=6))
    sharded(model, t(2, 24, 10), 4, {"0": "colwise", "2": "rowwise"})


def test_the_core_operator_with_its_choice_of_a_backend():
    class Legacy(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Parameter(t(96, 12, 3)), nn.Parameter(t(24, 48, 3))

        def forward(self, x):
            tail = ([1], [1], [1], False, [0], 2, False, False, True, True)
            return torch._convolution(torch._convolution(x, self.up, None, *tail).relu(), self.down, None, *tail)

    result = sharded(Legacy(), t(2, 24, 10), 4, "auto")
    assert [c.kind for c in result.collectives] == ["all_reduce"]
    assert share(result) < 0.27
