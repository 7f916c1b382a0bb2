"""Whatever a manifest holds, reading it gives a manifest or a `PackageError`."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shardwright as sw
from shardwright.layout.mesh import Mesh
from shardwright.package.manifest import MANIFEST_NAME, Manifest, TensorEntry, read_manifest
from shardwright.package.stored import rank_cuts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HONEST = {
    "format_version": 3,
    "shardwright_version": "0",
    "torch_version": "0",
    "mesh": {"tp": 1},
    "unions": {},
    "graphs": ["g"],
    "weights": ["w"],
    "original": "o",
    "files": [{"name": name, "num_bytes": 64, "sha256": ""} for name in "gwo"],
    "tensors": [{"name": "t", "kind": "parameter", "shape": [4], "dtype": "float32", "layouts": {"tp": "replicate"}}],
    "inputs": [],
    "outputs": [],
    "collectives": [],
}


def reads_or_refuses(folder, data):
    (folder / MANIFEST_NAME).write_bytes(data)
    try:
        assert isinstance(read_manifest(folder), Manifest)
    except sw.PackageError:
        return False
    return True


def test_the_honest_one_is_read(tmp_path):
    assert reads_or_refuses(tmp_path, json.dumps(HONEST).encode())


@given(field=st.sampled_from(sorted(HONEST)), value=JSON)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_field(tmp_path, field, value):
    reads_or_refuses(tmp_path, json.dumps({**HONEST, field: value}).encode())


@given(st.binary(max_size=200), st.integers(0, 700))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_anywhere(tmp_path, noise, at):
    honest = json.dumps(HONEST).encode()
    reads_or_refuses(tmp_path, noise)
    reads_or_refuses(tmp_path, honest[:at] + noise + honest[at:])


@given(value=JSON, shape=st.lists(st.integers(-1, 8), max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_layout_of_any_shape(value, shape):
    entry = TensorEntry("t", "parameter", shape, "float32", {"tp": value})
    try:
        cuts = rank_cuts(entry, {"tp": 0}, Mesh.of(2), Path("package"))
        assert [axis for axis, _ in cuts] == ["tp"]
    except sw.PackageError as error:
        assert "package: the manifest's layout of 't'" in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "change",
    [
        {"graphs": ["a/b"], "files": [{"name": n, "num_bytes": 1, "sha256": ""} for n in ("a/b", "w", "o")]},
        {"extras": ["not listed"]},
        {"mesh": {}, "graphs": [], "weights": []},
        {"mesh": {"tp": -1}},
        {"mesh": {"a": -1, "b": -1}},
        {"tensors": HONEST["tensors"] * 2},
        {"tensors": [{**HONEST["tensors"][0], "shape": [17]}]},
        {"tensors": [{**HONEST["tensors"][0], "shape": [-1]}]},
        {"tensors": [{**HONEST["tensors"][0], "dtype": "nn"}]},
        {"tensors": [{**HONEST["tensors"][0], "alias_of": "u"}]},
        {"tensors": [HONEST["tensors"][0], {**HONEST["tensors"][0], "name": "u", "shape": [2], "alias_of": "t"}]},
        {"tensors": [{**HONEST["tensors"][0], "alias_of": "t"}]},
        {"tensors": [{**HONEST["tensors"][0], "zeros": True}]},
        {"files": [{"name": n, "num_bytes": 16, "sha256": ""} for n in "gwoo"]},
    ],
)
def test_contradictions(tmp_path, change):
    assert not reads_or_refuses(tmp_path, msgspec.json.encode({**HONEST, **change}))


COLLECTIVE = {"kind": "all_reduce", "axis": "tp", "num_bytes": 4, "module": "", "source": "", "cause": ""}


@pytest.mark.parametrize(
    "odd",
    [
        {"collectives": [{**COLLECTIVE, "kind": "zz"}]},
        {"collectives": [{**COLLECTIVE, "axis": "yy"}]},
        {"collectives": [{**COLLECTIVE, "num_bytes": -5}]},
        {"collectives": [{**COLLECTIVE, "message": -5}]},
        {"tensors": [{**HONEST["tensors"][0], "layouts": {"yy": "replicate"}}]},
        {"tensors": [{**HONEST["tensors"][0], "elsewhere": {"yy": {"0": "replicate"}}}]},
        {"inputs": [{"name": "x", "shape": [4], "dtype": "float32", "layouts": {"yy": {"shard": 0}}}]},
        {"decoder": {"cache_length": 0, "end_ids": []}},
        {"decoder": {"cache_length": 8, "end_ids": [], "batch": 0}},
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(tmp_path, odd):
    assert reads_or_refuses(tmp_path, json.dumps({**HONEST, "collectives": [COLLECTIVE]}).encode())
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**HONEST, **odd}))
    with pytest.raises(sw.PackageError, match="contradicts itself"):
        read_manifest(tmp_path)
