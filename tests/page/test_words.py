"""Bytes, times, layouts and layers, for people."""

import pytest

from shardwright.layout.layout import REPLICATE, Shard
from shardwright.page.words import format_bytes, format_layout, format_time, star_layers

BYTES = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", 1 << 60: "1048576.0 TiB"}


@pytest.mark.parametrize(("count", "said"), BYTES.items())
def test_bytes(count, said):
    assert format_bytes(count) == said


@pytest.mark.parametrize(("time_us", "said"), [(0.5, "0.5 µs"), (1500, "1.5 ms"), (2.5e6, "2.5 s")])
def test_times(time_us, said):
    assert format_time(time_us) == said


def test_layouts():
    assert [format_layout(one) for one in (REPLICATE, Shard(1))] == ["whole", "Shard(1)"]


def test_layers():
    assert star_layers("layers.10.mlp.experts.3.up") == "layers.*.mlp.experts.*.up"
    assert star_layers("as layers.0.up is Shard(1)") == "as layers.*.up is Shard(1)"
    assert star_layers("layers.3x.up") == "layers.3x.up"
    assert star_layers("key_cache_12 is whole, value_cache_0") == "key_cache_* is whole, value_cache_*"
    assert star_layers("layer_2.up") == "layer_*.up"
    assert star_layers("norm_2d.bias") == "norm_2d.bias"
