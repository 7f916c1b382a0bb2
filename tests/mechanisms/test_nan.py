"""NaN, infinities and zeros of both signs come out of operators over a cut dim as out of the original."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import shardwright as sw
from shardwright.layout.layout import Shard
from tests.support.ranks import on_ranks
from tests.support.sharding import BYTES_MATTER

NAN, INF = float("nan"), float("inf")
WIDTH = 4096

F = nn.functional
ALONG = {
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(1, keepdim=True),
    "aminmax": lambda x: torch.aminmax(x, dim=1),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(1),
    "max": lambda x: x.max(),
    "max.dim": lambda x: x.max(1),
    "min.dim": lambda x: x.min(1),
    "norm": lambda x: torch.linalg.vector_norm(x, float("inf"), 1),
    "safe_softmax": lambda x: torch.ops.aten._safe_softmax(x, 1).sum(1),
    "cross_entropy_smooth": lambda x: F.cross_entropy(x, torch.arange(len(x)), label_smoothing=0.2, reduction="none"),
    "softmax": lambda x: x.softmax(1).sum(1),
    "log_softmax": lambda x: x.log_softmax(1).amax(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.arange(len(x)), reduction="none"),
    "any": lambda x: x.any(1),
    "sum": lambda x: x.sum(1),
}
WHOLE = {"cummax": lambda x: x.cummax(1), "cummin": lambda x: x.cummin(1), "topk": lambda x: x.topk(3)[0]}


def rows(dtype=torch.float32):
    """Rows with odd values in the first, the last and both halves of the dim that is cut."""
    x = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0))
    first, last = 5, WIDTH - 3
    x[0, first], x[1, last], x[2, [first, last]] = NAN, NAN, NAN
    x[3, first], x[4, last], x[5, first], x[6, last] = INF, INF, -INF, -INF
    x[7, first], x[7, last], x[8, first], x[8, last] = NAN, INF, -INF, NAN
    x[9] = -INF
    x[10] = 0.0
    x[10, first], x[10, last] = -0.0, 5 * x[0, 0]
    x[11, last] = -NAN
    return x.to(dtype)


class Along(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = {**ALONG, **WHOLE}[name]

    def forward(self, x):
        return self.function(x)


def sharded(name, dtype):
    exported = torch.export.export(Along(name), (rows(dtype),))
    return exported, sw.shard(exported, mesh=2, plan={}, inputs=Shard(1), cost=BYTES_MATTER)


def compare(found, wanted, what):
    found, wanted = ([v] if isinstance(v, torch.Tensor) else list(v) for v in (found, wanted))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*ALONG, *WHOLE])
def test_as_the_original(name, dtype):
    exported, program = sharded(name, dtype)
    kinds = {c.kind for c in program.collectives}
    assert kinds == ({"all_gather"} if name in WHOLE else {"all_reduce"})
    wanted = exported.module()(rows(dtype))
    for rank, found in enumerate(program.simulate(rows(dtype))):
        compare(found, wanted, f"{name} on rank {rank}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["amax", "amin", "argmax", "max.dim"])
def test_in_few_digits(name, dtype):
    exported, program = sharded(name, dtype)
    assert {c.kind for c in program.collectives} == {"all_reduce"}
    for found in program.simulate(rows(dtype)):
        compare(found, exported.module()(rows(dtype)), name)


@pytest.mark.ranks
def test_on_real_ranks():
    on_ranks(2, run_all)


def run_all(rank):
    group = dist.group.WORLD.group_name
    for name in ALONG:
        exported, program = sharded(name, torch.float32)
        piece = rows().chunk(2, 1)[rank]
        found = program.exported(rank, group_names={"tp": group}).module()(piece)
        compare(found, exported.module()(rows()), f"{name} on rank {rank}")
