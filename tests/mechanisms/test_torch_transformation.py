"""What PyTorch's own test of `tensor_parallel_transformation` asks, on real processes, to the last collective."""

import functools
from collections import Counter

import pytest
import torch
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

import shardwright as sw
from tests.support.models import LinearNorm, LinearPlaces, MLPs
from tests.support.ranks import on_ranks

pytestmark = pytest.mark.ranks


def collectives(exported):
    """How often each functional collective stands in a graph."""
    names = (str(n.target) for n in exported.graph.nodes if n.op == "call_function")
    return Counter(name.split(".")[1] for name in names if name.startswith("_c10d_functional."))


def transform_and_run(rank, num_ranks, model, inputs, plan, exported):
    """Transform and run on this rank, whose outputs must be the original's; the collectives."""
    with torch.no_grad():
        wanted = model(*inputs)
        local = sw.tensor_parallel_transformation(exported, rank, num_ranks, "cpu", plan)
        local.validate()
        got = local.module()(*inputs)
    torch.testing.assert_close(got, wanted)
    return collectives(local)


CASES = {
    "uncovered": (LinearNorm, (7, 3), {"fc": ColwiseParallel}, {"all_gather_into_tensor": 1, "wait_tensor": 1}),
    "no rule": (LinearPlaces, (7, 3), {"fc": ColwiseParallel}, {"all_gather_into_tensor": 1, "wait_tensor": 1}),
    "two mlps": (
        MLPs,
        (10, 12),
        {f"mlps.{i}.{j}": style for i in (0, 1) for j, style in ((0, ColwiseParallel), (2, RowwiseParallel))},
        {"all_reduce": 2, "wait_tensor": 2},
    ),
    "no bias": (
        lambda: MLPs(1, bias=False),
        (10, 12),
        {"mlps.0.0": ColwiseParallel, "mlps.0.2": RowwiseParallel},
        {"all_reduce": 1, "wait_tensor": 1},
    ),
}


@pytest.mark.parametrize("decompose", [True, False])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_seed_cases_on_real_ranks(num_ranks, decompose):
    for found in on_all_ranks(num_ranks):
        for name, (_, _, _, wanted) in CASES.items():
            assert found[decompose, name] == wanted, name


@functools.cache
def on_all_ranks(num_ranks):
    return on_ranks(num_ranks, run_cases, num_ranks)


def run_cases(rank, num_ranks):
    found = {}
    for name, (build, shape, plan, _) in CASES.items():
        torch.manual_seed(0)
        model, inputs = build(), (torch.randn(shape),)
        with torch.no_grad():
            exported = torch.export.export(model, inputs, strict=True)
            programs = {True: exported.run_decompositions(), False: exported}
        for decompose, program in programs.items():
            found[decompose, name] = dict(transform_and_run(rank, num_ranks, model, inputs, plan, program))
    return found
