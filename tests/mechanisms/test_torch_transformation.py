"""What PyTorch's own test of `tensor_parallel_transformation` asks, on real processes, to the last collective."""

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


def transform_and_run(rank, num_ranks, model, inputs, plan, decompose):
    """Export, transform and run on this rank; the worst difference from the original, and the collectives."""
    with torch.no_grad():
        wanted = model(*inputs)
        exported = torch.export.export(model, inputs, strict=True)
        exported = exported.run_decompositions() if decompose else exported
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
    results = on_ranks(num_ranks, run_cases, num_ranks, decompose)
    for found in results:
        for name, (_, _, _, wanted) in CASES.items():
            assert found[name] == wanted, name


def run_cases(rank, num_ranks, decompose):
    found = {}
    for name, (build, shape, plan, _) in CASES.items():
        torch.manual_seed(0)
        model = build()
        found[name] = dict(transform_and_run(rank, num_ranks, model, (torch.randn(shape),), plan, decompose))
    return found
