"""Normalisations over a cut dim: the kernel's numbers, one number a row reduced, and weights cut with the dim."""

import functools

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.rules.call import bind_arguments, leaves
from shardwright.rules.operators.norm_expansions import NORMS
from shardwright.rules.registry import op_names
from tests.support.harness import ULPS
from tests.support.sharding import BYTES_MATTER, check, chunks, held, kinds

F = nn.functional
aten = torch.ops.aten


def kernel_calls(dtype):
    """(operator, arguments) of every entry, with and without weights."""
    generator = torch.Generator().manual_seed(0)

    def t(*shape):
        return (torch.randn(shape, generator=generator) * 3 + 1).to(dtype)

    x, w, b, image = t(4, 5, 24), t(24), t(24), t(2, 24, 3, 5)
    yield aten.layer_norm.default, (x, [24], w, b)
    yield aten.layer_norm.default, (x, [5, 24], None, t(5, 24))
    yield aten.native_layer_norm.default, (x, [24], w, b, 1e-5)
    yield aten.native_layer_norm.default, (x, [24], None, None, 1e-3)
    yield aten.rms_norm.default, (x, [24], w, 1e-6)
    yield aten.rms_norm.default, (x * 1e-4, [24])
    yield aten._fused_rms_norm.default, (x, [24], w, 1e-6)
    yield aten._fused_rms_norm.default, (x * 1e-4, [5, 24], None, None)
    for groups in (1, 3, 8, 24):
        yield aten.group_norm.default, (image, groups, w, b)
        yield aten.native_group_norm.default, (image, None, b, 2, 24, 15, groups, 1e-5)
    yield aten.group_norm.default, (t(6, 24), 4, w)
    yield aten.instance_norm.default, (image, w, b, None, None, True, 0.1, 1e-5, True)
    yield aten.instance_norm.default, (x, None, None, None, None, True, 0.1, 1e-5, True)
    yield aten.batch_norm.default, (image, w, b, None, None, True, 0.1, 1e-5, True)
    yield aten._native_batch_norm_legit.no_stats, (image, w, b, True, 0.1, 1e-5)
    yield aten.native_batch_norm.default, (image, None, None, None, None, True, 0.1, 1e-5)
    for weight, bias in ((w, b), (None, None)):
        yield aten._native_batch_norm_legit_functional.default, (image, weight, bias, b, w.abs(), True, 0.2, 1e-5)
    yield aten._batch_norm_with_update_functional.default, (image, w, b, b, w.abs(), 0.1, 1e-5)
    for dim in (0, 1):
        length = t(24, 1) if dim == 0 else t(1, 5)
        yield aten._weight_norm.default, (t(24, 5), length, dim)
    yield aten._weight_norm_interface.default, (t(24, 5, 2), t(24, 1, 1), 0)
    yield aten._weight_norm_interface.default, (t(3, 5, 24), t(1, 1, 24), 2)


@pytest.mark.parametrize("dtype", ULPS)
def test_what_is_written_out_is_what_the_kernel_gives(dtype):
    seen = set()
    for op, args in kernel_calls(dtype):
        name = next(name for name in op_names(op) if name in NORMS)
        seen.add(name)
        found = leaves(NORMS[name](bind_arguments(op, args, {})))
        wanted = leaves(op(*args))
        assert [(one.shape, one.dtype) for one in found] == [(one.shape, one.dtype) for one in wanted], name
        # Kernels of batch norms round their factors to bfloat16 as well; what is written out does not.
        rounds = "batch_norm" in name or "instance_norm" in name
        exact = leaves(op(*(arg.double() if isinstance(arg, torch.Tensor) else arg for arg in args)))
        for one, other, truth in zip(found, wanted, exact if rounds else wanted, strict=True):
            if not other.numel():
                continue
            step = torch.finfo(other.dtype).eps * truth.double().abs().clamp(min=1)
            assert ((one.double() - truth.double()).abs() <= ULPS[dtype] * step).all(), (name, args[1:])
    assert seen == set(NORMS)


def test_the_table_is_alphabetical():
    assert list(NORMS) == sorted(NORMS)


class Normed(nn.Module):
    """A layer whose 42 features are cut, and a norm over them before the second layer of the pair."""

    def __init__(self, norm, call=None):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 42), norm, nn.Linear(42, 8)
        self.call = call or (lambda norm, x: norm(x))

    def forward(self, x):
        return self.down(self.call(self.norm, self.up(x)))


def channels(norm, x):
    """A norm of channels in dim 1."""
    return norm(x.transpose(1, 2)).transpose(1, 2)


CASES = {
    "layer": (lambda: nn.LayerNorm(42), None, 2),
    "layer_plain": (lambda: nn.LayerNorm(42, elementwise_affine=False), None, 2),
    "layer_no_bias": (lambda: nn.LayerNorm(42, bias=False), None, 2),
    "rms": (lambda: nn.RMSNorm(42), None, 1),
    "rms_plain": (lambda: nn.RMSNorm(42, elementwise_affine=False), None, 1),
    "one_group": (lambda: nn.GroupNorm(1, 42), channels, 2),
    "three_groups": (lambda: nn.GroupNorm(3, 42), channels, 2),
    "three_groups_plain": (lambda: nn.GroupNorm(3, 42, affine=False), channels, 2),
    "seven_groups": (lambda: nn.GroupNorm(7, 42), channels, 2),
    "places": (lambda: nn.InstanceNorm1d(5, affine=True), None, 2),
}
PLAN = {"up": "colwise", "down": "rowwise"}
EXACT = {"up.*": sw.Shard(0), "down.weight": sw.Shard(1)}
"""Chunks, also where a cut at whole groups would do without sums."""


@functools.cache
def normed(name, decompose):
    """The model of a case, an input, and the exported program."""
    make, call, _ = CASES[name]
    model, x = Normed(make(), call).double().eval(), torch.randn(3, 5, 8).double()
    exported = torch.export.export(model, (x,))
    return model, x, exported.run_decompositions() if decompose else exported


@pytest.mark.parametrize("decompose", [False, True], ids=["composite", "decomposed"])
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_small_sums_in_place_of_a_gather(name, num_ranks, decompose):
    model, x, exported = normed(name, decompose)
    sharded = sw.shard(exported, mesh=num_ranks, plan=EXACT, cost=BYTES_MATTER)
    report = sw.verify(sharded, exported, (x,), tolerance=1e-9)
    assert report.ok, str(report)
    assert kinds(sharded) == {"all_reduce": 1 + CASES[name][2]}
    small = sorted(c.num_bytes for c in sharded.collectives)[:-1]
    assert all(num_bytes <= 3 * 5 * 14 * 8 for num_bytes in small)
    if "places" not in name:
        for weight in (w for w in ("norm.weight", "norm.bias") if w in dict(model.named_parameters())):
            assert held(sharded, weight) == chunks(42, num_ranks)


class Alone(nn.Module):
    """A norm of what is given."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x)


class WithRoom(nn.BatchNorm1d):
    """A batch norm by the operator that also gives room for a backward pass."""

    def forward(self, x):
        rest = self.weight, self.bias, self.running_mean, self.running_var, 0.1, 1e-5
        return aten._batch_norm_with_update_functional.default(x, *rest)[0]


KEEPING = {
    "batch": nn.BatchNorm1d,
    "batch_plain": lambda size: nn.BatchNorm1d(size, affine=False),
    "instance": lambda size: nn.InstanceNorm1d(size, affine=True, track_running_stats=True),
    "with_room": WithRoom,
}
SIZES = {"batch": (44, 6, 4), "channels": (4, 44, 6), "places": (4, 6, 44)}


@functools.cache
def keeping(name, decompose, cut):
    """An input, and the exported program of a norm that keeps statistics."""
    model, x = Alone(KEEPING[name](SIZES[cut][1])).double().train(), torch.randn(SIZES[cut]).double()
    exported = torch.export.export(model, (x,))
    return x, exported.run_decompositions() if decompose else exported


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("cut", SIZES)
@pytest.mark.parametrize("decompose", [True, False])
@pytest.mark.parametrize("name", KEEPING)
def test_statistics_that_are_kept_are_two_sums_a_channel(name, decompose, cut, num_ranks):
    layout = sw.Shard(list(SIZES).index(cut))
    x, exported = keeping(name, decompose, cut)
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs={"x": layout}, outputs={0: layout}, cost=BYTES_MATTER)
    report = sw.verify(sharded, exported, (x,), tolerance=1e-9)
    assert report.ok, str(report)
    # An instance norm has statistics of its own in every entry of the batch.
    each = 4 if (name, cut) == ("instance", "places") else 1
    assert [(c.kind, c.num_bytes) for c in sharded.collectives] == (
        [] if cut == "channels" else [("all_reduce", each * 6 * 8)] * 2
    )


def test_a_batch_of_unknown_size():
    model, x = Alone(nn.BatchNorm1d(5)).double().train(), torch.randn(6, 5, 7).double()
    dynamic = {"x": {0: 2 * torch.export.Dim("batch", max=200)}}
    exported = torch.export.export(model, (x,), dynamic_shapes=dynamic).run_decompositions({})
    sharded = sw.shard(
        exported, mesh=2, plan={}, inputs={"x": sw.Shard(0)}, outputs={0: sw.Shard(0)}, cost=BYTES_MATTER
    )
    for given in (x, torch.randn(40, 5, 7).double()):
        report = sw.verify(sharded, exported, (given,), tolerance=1e-9)
        assert report.ok, str(report)
    assert [(c.kind, c.num_bytes) for c in sharded.collectives] == [("all_reduce", 5 * 8)] * 2


def test_a_group_that_no_rank_shares_stays_one_operator():
    model = Normed(nn.GroupNorm(6, 42), channels)
    sharded = check(model, (torch.randn(3, 5, 8),), 2, PLAN, cost=BYTES_MATTER)
    assert kinds(sharded) == {"all_reduce": 1}
    assert any("group_norm" in str(n.target) for n in sharded.exported(0).graph.nodes)


def test_weights_with_a_norm_are_cut_along_what_the_norm_sums():
    model = nn.Sequential(nn.Linear(8, 42), nn.utils.parametrizations.weight_norm(nn.Linear(42, 8)))
    plan = {"0": "colwise", "1.parametrizations.weight.original1": sw.Shard(1)}
    sharded = check(model, (torch.randn(3, 8),), 4, plan, cost=BYTES_MATTER)
    assert kinds(sharded) == {"all_reduce": 2}
    assert min(c.num_bytes for c in sharded.collectives) == 8 * 8


def test_no_more_is_sent_than_by_norms_that_are_spelled():
    """Query and key norms over all heads, at the size of a video model: one number a token each."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(2048, 2048, bias=False) for _ in range(4))
            self.norm_q, self.norm_k = nn.RMSNorm(2048), nn.RMSNorm(2048)

        def forward(self, x, turn):
            q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)
            q, k, v = (y.unflatten(2, (16, 128)) for y in (q, k, v))
            q, k = ((y.float() * turn).type_as(y) for y in (q, k))
            q, k, v = (y.transpose(1, 2) for y in (q, k, v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    with torch.device("meta"), torch.no_grad():
        args = torch.empty(1, 2048, 2048, dtype=torch.bfloat16), torch.empty(1, 2048, 1, 128)
        exported = torch.export.export(Attention().to(torch.bfloat16), args)
    for plan in ("auto", {"[q,k,v]": "colwise", "o": "rowwise"}):
        sharded = sw.shard(exported, mesh=8, plan=plan)
        # In float32, as they are summed.
        assert [(c.kind, c.num_bytes) for c in sharded.collectives] == [
            ("all_reduce", 2048 * 4),
            ("all_reduce", 2048 * 4),
            ("all_reduce", 2048 * 2048 * 2),
        ]
        assert held(sharded, "norm_q.weight") == held(sharded, "norm_k.weight") == chunks(2048, 8)
