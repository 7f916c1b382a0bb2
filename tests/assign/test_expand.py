"""Composite operators written out: the same numbers, and small partial results in place of a gathered operand."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.assign import assign
from shardwright.assign.cost import CostModel
from shardwright.rules.operators.expansions import REDUCTION_EXPANSIONS
from tests.support.sharding import BYTES_MATTER

F = nn.functional

TARGET = torch.tensor([3, 0, 9, 4, -100, 1])
WEIGHT = torch.rand(42, dtype=torch.float64) + 0.5
CALLS = {
    "all": lambda x: (x > -2).all(1),
    "aminmax": lambda x: torch.aminmax(x, dim=1),
    "any": lambda x: (x > 1).any(1, keepdim=True),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(-1, keepdim=True),
    "cross_entropy": lambda x: F.cross_entropy(x, TARGET),
    "cross_entropy_none": lambda x: F.cross_entropy(x, TARGET, reduction="none"),
    "cross_entropy_smooth": lambda x: F.cross_entropy(x, TARGET, weight=WEIGHT, label_smoothing=0.2, reduction="sum"),
    "cross_entropy_weight": lambda x: F.cross_entropy(x, TARGET, weight=WEIGHT),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "logsumexp": lambda x: x.logsumexp(1),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(1, keepdim=True),
    "nll": lambda x: F.nll_loss(x, TARGET, weight=WEIGHT),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "norm_3": lambda x: torch.linalg.vector_norm(x, 3, dim=1, keepdim=True),
    "norm_inf": lambda x: x.norm(float("inf"), dim=1),
    "softmax": lambda x: x.softmax(1),
    "special.softmax": lambda x: torch.special.softmax(x, 1),
    "std": lambda x: x.std(1),
    "std_mean": lambda x: torch.std_mean(x, 1),
    "var": lambda x: x.var(1, correction=0),
    "var_mean": lambda x: torch.var_mean(x, 1, keepdim=True),
}


class Head(nn.Module):
    """A head whose 42 classes are cut, and an operator over them."""

    def __init__(self, call):
        super().__init__()
        self.head, self.call = nn.Linear(8, 42), call

    def forward(self, x):
        return self.call(self.head(x))


@functools.cache
def head(call, decompose):
    """An input, and the exported program of a head; in float64, as a small loss is the difference of larger sums."""
    x = torch.randn(6, 8).double()
    with torch.no_grad():
        exported = torch.export.export(Head(call).double(), (x,))
    return x, exported.run_decompositions() if decompose else exported


def sharded(call, num_ranks, *, decompose=False, cost=BYTES_MATTER):
    x, exported = head(call, decompose)
    result = sw.shard(exported, mesh=num_ranks, plan={"head": "colwise"}, cost=cost)
    report = sw.verify(result, exported, (x,), tolerance=1e-6)
    assert report.ok, str(report)
    for rank in range(num_ranks):
        result.exported(rank).validate()
    return result


@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", CALLS)
def test_same_numbers_over_cut_classes(name, num_ranks, decompose):
    result = sharded(CALLS[name], num_ranks, decompose=decompose)
    # Outputs that carry the classes are gathered, as every rank returns the whole; nothing else that large is.
    large = [c.kind for c in result.collectives if c.num_bytes >= 6 * 42 * 8]
    assert large == (["all_gather"] if "softmax" in name else [])


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["argmax", "argmin", "max", "logsumexp"])
def test_what_is_no_number(name, special):
    class Data(nn.Module):
        def __init__(self):
            super().__init__()
            x = torch.randn(5, 42)
            x[1, 3], x[1, 7], x[2] = special, special, special
            self.register_buffer("x", x)

        def forward(self):
            return CALLS[name](self.x)

    exported = torch.export.export(Data(), ())
    result = sw.shard(exported, mesh=2, plan={"x": sw.Shard(1)}, cost=BYTES_MATTER)
    assert all(c.num_bytes < 5 * 42 * 4 for c in result.collectives)
    report = sw.verify(result, exported, ())
    assert report.ok, str(report)


def test_a_gather_stays_where_it_is_cheaper():
    result = sharded(CALLS["argmax"], 2, cost=CostModel())
    assert [c.kind for c in result.collectives] == ["all_gather"]


def loss_of_many_words():
    """A head with 32,000 words and its loss, on the meta device."""

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 32_000, bias=False)

        def forward(self, x, target):
            return F.cross_entropy(self.head(x).flatten(0, 1).float(), target.flatten())

    with torch.device("meta"):
        model, inputs = Loss(), (torch.empty(4, 512, 64), torch.empty(4, 512, dtype=torch.long))
    return torch.export.export(model, inputs)


def test_large_logits_are_not_gathered_by_default():
    result = sw.shard(loss_of_many_words(), mesh=8, plan={"head": "colwise"})
    assert [(c.kind, c.num_bytes) for c in result.collectives] == [
        ("all_reduce", 4 * 512 * 4),
        ("all_reduce", 2 * 4 * 512 * 4),
    ]


def test_nothing_is_tried_behind_a_gather_that_the_plan_asks_for(monkeypatch):
    tried = []
    monkeypatch.setattr(assign, "expand", lambda program, names: tried.append(names) or program)
    result = sw.shard(loss_of_many_words(), mesh=8, plan={"head": "colwise_rep"})
    assert [(c.kind, c.num_bytes) for c in result.collectives] == [("all_gather", 4 * 512 * 32_000 * 4)]
    assert tried == []


def test_the_table_is_alphabetical():
    assert list(REDUCTION_EXPANSIONS) == sorted(REDUCTION_EXPANSIONS)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_minimum_beside_a_maximum_is_reduced_with_it(num_ranks, keepdim):
    def call(x):
        return x.amax(1, keepdim), x.amin(1, keepdim)

    result = sharded(call, num_ranks, cost=None)
    assert [(c.kind, c.num_bytes) for c in result.collectives] == [("all_reduce", 2 * 6 * 8)]


def test_whole_numbers_are_not_negated():
    def call(x):
        y = (x.abs() * 9).to(torch.uint8)
        return y.amax(1).double() - y.amin(1).double()

    sharded(call, 2, cost=None)
