"""Attention as GPUs have it: kernels that no CPU has, so that they are written here by their definition."""

import pytest
import torch
from torch import library

import shardwright as sw
from shardwright.layout.layout import local_shape
from shardwright.rules import REGISTRY
from shardwright.rules.call import bind_call, make_call
from shardwright.rules.check import default_strategies, run_strategy
from tests.support.harness import t

aten = torch.ops.aten
SEED = torch.tensor(7)


def defined(query, key, value, mask, is_causal):
    """The result, and the logarithms of the sums."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = scores_of(query, key, mask, is_causal)
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


def scores_of(query, key, mask, is_causal):
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return scores.masked_fill(torch.ones(scores.shape[-2:]).tril() == 0, -torch.inf) if is_causal else scores


def gradients(gradient, query, key, value, mask, is_causal):
    """Those of queries, keys, values and the mask; autograd does not run inside of a kernel."""
    group, scale = query.shape[1] // key.shape[1], query.shape[-1] ** -0.5
    keys, values = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    weights = scores_of(query, keys, mask, is_causal).softmax(-1)
    through = gradient @ values.mT
    of_scores = weights * (through - (through * weights).sum(-1, keepdim=True))
    of_keys, of_values = of_scores.mT @ query * scale, weights.mT @ gradient
    by_group = [one.unflatten(1, (-1, group)).sum(2) for one in (of_keys, of_values)]
    return [of_scores @ keys * scale, *by_group, None if mask is None else of_scores.sum_to_size(mask.shape)]


def flash_backward(gradient, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, dropout, is_causal, *rest, scale=None):
    return tuple(gradients(gradient, q, k, v, None, is_causal)[:3])


def efficient_backward(
    gradient, q, k, v, bias, out, lse, seed, offset, dropout, wanted, is_causal=False, *, scale=None
):
    *found, of_bias = gradients(gradient, q, k, v, bias, is_causal)
    return (*found, of_bias if wanted[3] else None)


def cudnn_backward(
    gradient, q, k, v, out, lse, seed, offset, bias, cum_q, cum_k, max_q, max_k, dropout, is_causal, **_
):
    return tuple(gradients(gradient, q, k, v, bias, is_causal)[:3])


def cudnn(q, k, v, bias, wanted, dropout=0.0, is_causal=False, debug=False, *, scale=None):
    out, lse = defined(q, k, v, bias, is_causal)
    return out, lse[..., None], None, None, q.shape[2], k.shape[2], SEED.clone(), SEED.clone(), None


KERNELS = {
    "_scaled_dot_product_flash_attention_backward": flash_backward,
    "_scaled_dot_product_efficient_attention_backward": efficient_backward,
    "_scaled_dot_product_cudnn_attention_backward": cudnn_backward,
    "_scaled_dot_product_cudnn_attention": cudnn,
}


@pytest.fixture(scope="module", autouse=True)
def kernels():
    with library._scoped_library("aten", "IMPL", "CPU") as written:
        for name, kernel in KERNELS.items():
            written.impl(name, kernel)
        yield


def calls(batch, heads, kv_heads, queries, keys):
    """One of every operator: (operator, arguments)."""
    q, k, v = t(batch, heads, queries, 8), t(batch, kv_heads, keys, 8, seed=1), t(batch, kv_heads, keys, 8, seed=2)
    gradient = t(batch, heads, queries, 8, seed=3)
    ends = {"is_causal": queries == keys}
    out, lse = defined(q, k, v, None, **ends)
    found = [
        (
            aten._scaled_dot_product_flash_attention_backward.default,
            (gradient, q, k, v, out, lse, None, None, queries, keys, 0.0, queries == keys, SEED, SEED),
        ),
        (aten._scaled_dot_product_cudnn_attention.default, (q, k, v, None, True, 0.0, queries == keys)),
    ]
    for shape in ((batch, heads, queries, keys), (1, heads, queries, keys), (batch, 1, 1, keys), None):
        bias = None if shape is None else t(*shape, seed=4)
        padded = torch.nn.functional.pad(lse, (0, 32 - queries))
        args = (gradient, q, k, v, bias, out, padded, SEED, SEED, 0.0, [True, True, True, bias is not None])
        if heads == kv_heads:
            # That kernel has no groups: torch repeats keys and values for it.
            found.append((aten._scaled_dot_product_efficient_attention_backward.default, args))
        if bias is not None:
            args = (gradient, q, k, v, out, lse[..., None], SEED, SEED, bias, None, None, queries, keys, 0.0, False)
            found.append((aten._scaled_dot_product_cudnn_attention_backward.default, args))
    return found


SIZES = [(2, 4, 4, 6, 6), (3, 6, 2, 5, 7), (1, 6, 3, 4, 4)]


@pytest.mark.parametrize("sizes", SIZES)
def test_rules_are_right_by_definition(sizes):
    for op, args in calls(*sizes):
        assert sw.check_rule(op, *args) == [], op


def on_meta(value):
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("sizes", SIZES)
def test_shapes_are_those_of_torchs_own_metadata(sizes):
    """Of the kernels that GPUs have: what they lay out, beyond what the definition says."""
    for op, args in calls(*sizes):
        args = [on_meta(one) for one in args]
        expected = op(*args)
        call = make_call(op, args, {}, expected)
        rule = REGISTRY.entry(op).build(call)
        # Parts of sums are made of values.
        for strategy in [one for one in default_strategies(rule, 2) if sw.Partial() not in one.operands]:
            for rank, found in enumerate(run_strategy(rule, call, strategy, bind_call(op, args, {})[1], 2)):
                for whole, piece, layout in zip(expected, found, strategy.results, strict=True):
                    if isinstance(whole, torch.Tensor):
                        assert tuple(piece.shape) == tuple(local_shape(whole.shape, layout, rank)), (op, strategy)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_drawn_whole(dropout):
    (op, args), *_ = calls(2, 4, 4, 6, 6)
    call = make_call(op, (*args[:10], dropout, *args[11:]), {}, op(*args))
    assert (REGISTRY.entry(op).build(call) is None) is (dropout > 0)
