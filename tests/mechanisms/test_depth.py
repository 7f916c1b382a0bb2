"""Depth does not change a plan: every layer of a deep model lies as those of a shallow one, on a split axis or a whole.

Of the shape of Llama 405B, on the meta device: 128 heads, 8 key-value heads, 16,384 wide.
"""

import functools
import re

import pytest
import torch

import shardwright as sw
from tests.support.models import MEGATRON, Decoder

PLANS = {"megatron": {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}, "auto": "auto"}
DEPTHS = {"megatron": (2, 8, 48), "auto": (8, 48)}
"""Of two and three layers the ends are dear enough to decide: the automatic plan then spares an all-to-all behind the
embedding, where eight layers and more gain by it what it costs. Both are proven to be the best.
"""


@functools.cache
def exported(layers):
    with torch.device("meta"):
        model = Decoder(layers, width=16384, heads=128, kv_heads=8, hidden=53248, vocab=128256).eval()
        return torch.export.export(model, (torch.zeros(1, 2048, dtype=torch.long),))


@functools.cache
def sharded(layers, ranks, plan):
    return sw.shard(exported(layers), mesh=ranks, plan=PLANS[plan])


def apart(name):
    """(layer, the name inside it) of a weight; (-1, its name) outside of any."""
    found = re.fullmatch(r"layers\.(\d+)\.(.*)", name)
    return (int(found[1]), found[2]) if found else (-1, name)


def by_layer(found):
    """Every layer's layouts by name, those outside of any layer under -1."""
    layers = {}
    for weight in found.weights:
        layer, name = apart(weight.name)
        layers.setdefault(layer, {})[name] = weight.layouts
    return layers


def collectives(found):
    """What every layer communicates, those outside of any under -1, in order."""
    layers = {}
    for one in found.collectives:
        layer, place = apart(one.module)
        layers.setdefault(layer, []).append((one.kind, one.axis, place, one.num_bytes))
    return layers


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("ranks", [8, 16, 64])
def test_every_layer_lies_as_in_a_shallow_model(ranks, plan):
    shallow, *deep = (sharded(layers, ranks, plan) for layers in DEPTHS[plan])
    wanted, sent = by_layer(shallow), collectives(shallow)
    assert wanted[0] == wanted[1]
    for layers, found in zip(DEPTHS[plan][1:], deep, strict=True):
        assert found.mesh.axes == shallow.mesh.axes
        assert found.gap == 0
        # A head that is whole on every rank is a smaller part of a deep model, within the slack that "auto" has.
        ends = wanted[-1] if plan != "auto" else by_layer(found)[-1]
        assert by_layer(found) == {-1: ends, **dict.fromkeys(range(layers), wanted[0])}
        # The last layer differs from those before it: its sum is read by the head's norm.
        middle = {layer: one for layer, one in collectives(found).items() if 0 <= layer < layers - 1}
        assert middle == dict.fromkeys(range(layers - 1), sent[0])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("ranks", "axes"), [(8, (8,)), (16, (8, 2)), (64, (8, 8))])
def test_an_axis_is_split_at_the_key_value_heads_at_every_depth(ranks, axes, plan):
    for layers in (2, 8, 48):
        assert tuple(size for _, size in sharded(layers, ranks, plan).mesh.axes) == axes
