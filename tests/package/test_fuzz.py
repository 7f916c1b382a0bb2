"""Whatever the files of a package hold, opening it gives what they still say or a `PackageError`, nothing else."""

import io
import json
import resource
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shardwright as sw
from shardwright.package.manifest import MANIFEST_NAME, FileEntry, read_manifest
from shardwright.run.aot.compiled_manifest import (
    COMPILED_MANIFEST,
    COMPILED_VERSION,
    CompiledManifest,
    ProgramEntry,
    find_compiled,
)
from shardwright.run.aot.machine import this_machine
from tests.support.json_trees import places
from tests.support.models import Cache, redraw

JSON = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6) | st.just([])
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "p"
    exported = torch.export.export(redraw(Cache()), (torch.randn(2, 1, 16), torch.tensor([0])))
    sw.shard(exported, mesh=1).save(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    """No absurd size is allocated: the process may take 2 GiB more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def opens_or_refuses(package, path, data):
    """Open the package with ``data`` in place of a file; whether it is still opened."""
    honest = path.read_bytes()
    manifest = package / MANIFEST_NAME
    said = manifest.read_bytes()
    path.write_bytes(data)
    if path != manifest:
        # The size is as the manifest says: whoever alters a file can alter that too.
        told = json.loads(said)
        next(entry for entry in told["files"] if entry["name"] == path.name)["num_bytes"] = len(data)
        manifest.write_text(json.dumps(told))
    try:
        found = sw.load(package, check=False)
    except sw.PackageError as error:
        assert str(package) in str(error)  # noqa: PT017 - either outcome is right
        return False
    finally:
        path.write_bytes(honest)
        if path != manifest:
            manifest.write_bytes(said)
    assert all(tensor.numel() < 10_000 for tensor in found.exported.state_dict.values())
    return True


def altered(data, honest, end):
    """A few bytes before ``end`` changed, or the file cut short or made longer."""
    changed = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    how = data.draw(st.sampled_from(["same", "same", "shorter", "longer"]))
    if how == "shorter":
        return bytes(changed[: data.draw(st.integers(0, len(changed) - 1))])
    return bytes(changed) + (data.draw(st.binary(min_size=1, max_size=9)) if how == "longer" else b"")


def with_one_value(data, tree):
    """A value somewhere in nested JSON replaced by another, a key removed, or a list doubled."""
    held = places(tree)
    holder, key = held[data.draw(st.integers(0, len(held) - 1))]
    if isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[key]
    elif isinstance(holder[key], list) and data.draw(st.booleans()):
        holder[key] = holder[key] * 2
    else:
        holder[key] = data.draw(JSON)
    return json.dumps(tree).encode()


def test_the_honest_package_is_opened(package):
    path = next(package.glob("weights-*"))
    assert opens_or_refuses(package, path, path.read_bytes())


@given(st.data())
@settings(quick, max_examples=40)
def test_bytes_of_weights(package, data):
    path = next(package.glob("weights-*"))
    honest = path.read_bytes()
    opens_or_refuses(package, path, altered(data, honest, 8 + int.from_bytes(honest[:8], "little")))


@given(st.data())
@settings(quick, max_examples=40)
def test_values_in_the_header_of_weights(package, data):
    path = next(package.glob("weights-*"))
    honest = path.read_bytes()
    end = 8 + int.from_bytes(honest[:8], "little")
    header = with_one_value(data, json.loads(honest[8:end]))
    opens_or_refuses(package, path, len(header).to_bytes(8, "little") + header + honest[end:])


@given(st.integers(0, 2**64 - 1))
@settings(quick, max_examples=40)
def test_the_length_of_the_header_of_weights(package, length):
    path = next(package.glob("weights-*"))
    opens_or_refuses(package, path, length.to_bytes(8, "little") + path.read_bytes()[8:])


@given(st.data())
@settings(quick, max_examples=40)
def test_bytes_of_a_graph(package, data):
    path = package / "graph-0.pt2"
    honest = path.read_bytes()
    opens_or_refuses(package, path, altered(data, honest, len(honest)))


@given(st.data())
@settings(quick, max_examples=40)
def test_values_in_a_graph(package, data):
    path = package / "graph-0.pt2"
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        parts = [info for info in old.infolist() if info.filename.endswith(".json")]
        chosen = data.draw(st.sampled_from(sorted(info.filename for info in parts)))
        for info in old.infolist():
            content = old.read(info)
            if info.filename == chosen:
                content = with_one_value(data, json.loads(content))
            new.writestr(info.filename, content)
    opens_or_refuses(package, path, out.getvalue())


@given(st.data())
@settings(quick, max_examples=40)
def test_values_in_the_manifest(package, data):
    path = package / "shardwright.json"
    opens_or_refuses(package, path, with_one_value(data, json.loads(path.read_bytes())))


@given(st.data())
@settings(quick, max_examples=40)
def test_values_in_the_manifest_of_compiled_code(package, tmp_path_factory, data):
    manifest = read_manifest(package)
    files = [FileEntry(name, 1, "0" * 64) for name in ("graph-0.pt2", "runner.so")]
    graph = {entry.name: entry.sha256 for entry in manifest.files}["graph-0.pt2"]
    program = ProgramEntry("graph-0.pt2", graph, ["keys"], [], [0], [0], {})
    found = CompiledManifest(
        COMPILED_VERSION, manifest.mesh, this_machine("cpu"), {}, "runner.so", [0], [program], files
    )
    folder = package / "compiled"
    folder.mkdir(exist_ok=True)
    try:
        for name in ("graph-0.pt2", "runner.so"):
            (folder / name).write_bytes(b"x")
        (folder / COMPILED_MANIFEST).write_bytes(with_one_value(data, json.loads(msgspec.json.encode(found))))
        with pytest.raises(sw.PackageError) as refused:
            find_compiled(package, manifest, 0)
        assert str(package) in str(refused.value)
    finally:
        shutil.rmtree(folder)


def test_a_changed_manifest_is_gathered_or_refused(package, tmp_path):
    """Every field of the tensors' entries set to what it may not be."""
    honest = json.loads((package / MANIFEST_NAME).read_bytes())
    values = [0, -1, 2**62, "", "nn", "float8", [], [-1], [2**40, 2**40], [2**62], {"tp": [0]}, {"tp": 7}, None, True]
    try:
        for field in honest["tensors"][0]:
            for value in values:
                told = json.loads(json.dumps(honest))
                told["tensors"][0][field] = value
                (package / MANIFEST_NAME).write_text(json.dumps(told))
                try:
                    sw.gather(package, tmp_path / "state.safetensors")
                except sw.PackageError:
                    assert not (tmp_path / "state.safetensors").exists()
                (tmp_path / "state.safetensors").unlink(missing_ok=True)
    finally:
        (package / MANIFEST_NAME).write_text(json.dumps(honest))


def test_sizes_that_no_file_holds(package):
    """A cache is made of zeros, so nothing but memory bounds it."""
    path = package / "graph-0.pt2"
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith(".json"):
                content = content.replace(b'{"as_int":8}', b'{"as_int":%d}' % 2**40)
            new.writestr(info.filename, content)
    assert not opens_or_refuses(package, path, out.getvalue())
