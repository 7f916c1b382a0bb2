"""Distances, lengths, margins and reductions written out: the kernel's numbers in every precision; small sums."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.rules.call import bind_arguments, leaves
from shardwright.rules.operators.distance_expansions import DISTANCES
from shardwright.rules.operators.expansions import EXPANSIONS
from shardwright.rules.registry import op_names
from tests.support.harness import ULPS
from tests.support.sharding import BYTES_MATTER

F = nn.functional
aten = torch.ops.aten
INF = float("inf")
TARGET = torch.tensor([3, 0, 9, 4, 7, 1])


def kernel_calls(dtype):
    """(operator, arguments) of every entry, and of the reductions that compute in a wider type."""
    generator = torch.Generator().manual_seed(0)

    def t(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    x, y, w = t(6, 42), t(6, 42), t(42).abs()
    holes = torch.where(t(6, 42) > 1, float("nan"), x)
    for other in (y, t(1, 42), t(42)):
        yield aten.cosine_similarity.default, (x, other, -1)
    for order in (1, 2, 3, INF):
        yield aten.pairwise_distance.default, (x, y, order)
        yield aten.dist.default, (x, y, order)
        yield aten.renorm.default, (x, order, 0, 2.5)
        if order in (2, 3) and dtype != torch.bfloat16:
            # Few rows, and as many as make a matrix product.
            for rows in (4, 30):
                yield aten.cdist.default, (t(2, rows, 42), t(1, 6, 42), order)
                yield aten._cdist_forward.default, (t(rows, 42), y, order, 2)
            yield aten.pdist.default, (x, order)
            yield aten._pdist_forward.default, (x, order)
    if dtype != torch.bfloat16:
        yield aten._euclidean_dist.default, (x, t(5, 42))
    for dim in (-1, 0, 1):
        yield aten.norm_except_dim.default, (x, 2, dim)
    yield aten.norm_except_dim.default, (t(3, 4, 5), 1, 2)
    yield aten.norm_except_dim.default, (t(3, 4, 5), 2, -2)
    for order in (None, 0, 1, 2, INF, -INF):
        yield aten.linalg_norm.default, (x, order, [1], True)
        yield aten.linalg_vector_norm.default, (x, 2 if order is None else order, [1])
    for order in (1, -1, INF, -INF):
        yield aten.linalg_norm.default, (x, order)
        yield aten.linalg_matrix_norm.default, (x, order)
    yield aten.linalg_norm.default, (x,)
    yield aten.linalg_matrix_norm.str_ord, (x, "fro")
    yield aten.norm.Scalar, (x, 2)
    yield aten.norm.ScalarOpt_dim, (x, None, [1])
    yield aten.norm.ScalarOpt_dim_dtype, (x, 2, [1], True), {"dtype": torch.float64}
    yield aten.norm.ScalarOpt_dtype, (x, 2), {"dtype": torch.float64}
    yield aten.nanmean.default, (holes, [1], True)
    yield aten.nanmean.default, (holes,)
    if dtype != torch.bfloat16 or "aten::trace" not in NOT_IN_BFLOAT16:
        yield aten.trace.default, (x,)
    for reduction in (0, 1, 2):
        if dtype != torch.bfloat16:
            yield aten.multi_margin_loss.default, (x, TARGET, 1, 1.0, w, reduction)
            yield aten.multi_margin_loss.default, (x, TARGET, 2, 0.5, None, reduction)
        yield aten.cosine_embedding_loss.default, (x, y, TARGET % 2 * 2 - 1, 0.1, reduction)
        yield aten.triplet_margin_loss.default, (x, y, t(6, 42), 1.0, 2.0, 1e-6, reduction == 1, reduction)
        yield aten.nll_loss_nd.default, (x, TARGET, w, reduction)
        yield aten.nll_loss.default, (x, TARGET, None, reduction)
        yield aten.nll_loss_forward.default, (x, TARGET, w, reduction, 4)
        yield aten.cross_entropy_loss.default, (x, TARGET, w, reduction, 4, 0.1)
        yield aten.cross_entropy_loss.default, (x, y.softmax(1), w, reduction, -100, 0.1)
    for dim in (0, 1):
        yield aten.softmax.int, (x * 5, dim)
        yield aten.log_softmax.int, (x * 5, dim)
        yield aten.softmax.int, (x, dim, torch.float32)
        yield aten._safe_softmax.default, (x, dim)
        yield aten.logsumexp.default, (x, [dim])
        yield aten.var.correction, (x + 3, [dim])
        yield aten.std_mean.correction, (x, [dim])


@pytest.mark.parametrize("dtype", ULPS)
def test_what_is_written_out_is_what_the_kernel_gives(dtype):
    seen = set()
    for op, args, *more in kernel_calls(dtype):
        kwargs = more[0] if more else {}
        name = next(name for name in op_names(op) if name in EXPANSIONS)
        seen.add(name)
        found = leaves(EXPANSIONS[name](bind_arguments(op, args, kwargs)))
        wanted = leaves(op(*args, **kwargs))
        doubled = (a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
        exact = leaves(op(*doubled, **kwargs))
        assert [(one.shape, one.dtype) for one in found] == [(one.shape, one.dtype) for one in wanted], (op, args[1:])
        for one, other, truth in zip(found, wanted, exact, strict=True):
            step = torch.finfo(other.dtype).eps * truth.double().abs().clamp(min=1)
            # What some kernels round on their way is not asked for.
            off = (other.double() - truth.double()).abs()
            assert ((one.double() - truth.double()).abs() <= ULPS[dtype] * step + off).all(), (op, args[1:])
    assert seen >= set(DISTANCES) - (NOT_IN_BFLOAT16 if dtype == torch.bfloat16 else set())


NOT_IN_BFLOAT16 = {
    f"aten::{name}"
    for name in ("_cdist_forward", "_euclidean_dist", "_pdist_forward", "cdist", "multi_margin_loss", "pdist")
}
if torch.__version__.startswith(("2.11", "2.12")):
    NOT_IN_BFLOAT16.add("aten::trace")


def test_the_table_is_alphabetical():
    assert list(DISTANCES) == sorted(DISTANCES)


def test_norms_of_spectra_stay():
    x = torch.randn(4, 6)
    assert DISTANCES["aten::linalg_norm"](bind_arguments(aten.linalg_norm.default, (x, 2), {})) is None
    assert DISTANCES["aten::linalg_norm"](bind_arguments(aten.linalg_norm.ord_str, (x, "nuc"), {})) is None


CALLS = {
    **{f"cdist_{p}": (lambda x, y, p=p: torch.cdist(x, y[:3], p), 1) for p in (0.0, 1.0, 2.0, 3.0, INF)},
    **{f"pdist_{p}": (lambda x, y, p=p: F.pdist(x + y, p), 1) for p in (1.0, 2.0, 3.0, INF)},
    "cdist_matmul": (lambda x, y: torch.cdist(x, y[:3], compute_mode="use_mm_for_euclid_dist"), 1),
    "cosine": (lambda x, y: F.cosine_similarity(x, y, dim=1), 1),
    "cosine_embedding": (lambda x, y: F.cosine_embedding_loss(x, y, TARGET % 2 * 2 - 1, reduction="none"), 2),
    "cosine_broadcast": (lambda x, y: F.cosine_similarity(x, y[:1], dim=-1), 1),
    "cross_entropy_probabilities": (lambda x, y: F.cross_entropy(x, y.softmax(0), label_smoothing=0.1), 3),
    "dist": (torch.dist, 1),
    "matrix_norm": (lambda x, y: torch.linalg.matrix_norm(x), 1),
    "matrix_norm_1": (lambda x, y: torch.linalg.matrix_norm(x, 1), 1),
    "matrix_norm_inf": (lambda x, y: torch.linalg.norm(x, INF), 1),
    "multi_margin": (lambda x, y: F.multi_margin_loss(x, TARGET), 2),
    "nanmean": (lambda x, y: torch.nanmean(x / (y > 0), 1), 2),
    "norm_except_dim": (lambda x, y: torch.norm_except_dim(x), 1),
    "norm_all": (lambda x, y: x.norm(), 1),
    "normalize": (lambda x, y: F.normalize(x).sum(1), 2),
    "pairwise": (F.pairwise_distance, 1),
    "trace": (lambda x, y: torch.trace(x), 1),
    "triplet": (lambda x, y: F.triplet_margin_loss(x, y, x.flip(0)), 2),
}


class Two(nn.Module):
    """Two layers whose 42 features are cut, and an operator of both."""

    def __init__(self, call):
        super().__init__()
        self.one, self.other, self.call = nn.Linear(8, 42), nn.Linear(8, 42), call

    def forward(self, h):
        return self.call(self.one(h), self.other(h))


@functools.cache
def two(name, decompose):
    """An input, and the exported program of a call on two layers."""
    h = torch.randn(6, 8).double()
    exported = torch.export.export(Two(CALLS[name][0]).double(), (h,))
    return h, exported.run_decompositions() if decompose else exported


@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", CALLS)
def test_small_sums_in_place_of_a_gather(name, num_ranks, decompose):
    at_most = CALLS[name][1]
    h, exported = two(name, decompose)
    sharded = sw.shard(exported, mesh=num_ranks, plan={"[one,other]": "colwise"}, cost=BYTES_MATTER)
    report = sw.verify(sharded, exported, (h,), tolerance=1e-9)
    assert report.ok, str(report)
    if not decompose:
        # Cosines are worked out of scattered sums, which then are gathered: an all-reduce in two halves.
        halves = {"reduce_scatter", "all_gather"} if name == "cosine_embedding" else set()
        assert {c.kind for c in sharded.collectives} == (halves or {"all_reduce"})
    # What is decomposed is not stacked: its sums, and what is gathered of them, are reduced one by one.
    assert 1 <= len(sharded.collectives) <= (max(at_most, 4) if decompose else at_most)
    assert all(c.num_bytes <= 3 * 6 * 8 for c in sharded.collectives if "norm_1" not in name)
