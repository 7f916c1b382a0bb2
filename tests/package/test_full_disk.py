"""A disk that fills up while weights are streamed: one message, nothing left behind."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shardwright as sw
from tests.support.fill_disk import linears
from tests.support.tiny import write_checkpoint


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "p"
    sw.shard(linears(512), mesh=2).save(path)
    return path


@pytest.fixture
def small_files():
    """No file may grow beyond 1 MiB, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_weights_that_cannot_be_written_on(package, tmp_path, small_files):
    with pytest.raises(sw.PackageError, match=r"cannot write the package .*File too large\n  nothing was left behind"):
        sw.reshard(package, tmp_path / "q", mesh=2)
    with pytest.raises(sw.PackageError, match=r"(?s)cannot write .*nothing was left behind"):
        sw.gather(package, tmp_path / "state.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_noticed_at_once(package, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(sw.PackageError, match=r"the weights need \d+ bytes, the disk has 1000 free"):
        sw.reshard(package, tmp_path / "q", mesh=2)
    assert list(tmp_path.iterdir()) == []


def test_compiled_code_that_cannot_be_written(package, tmp_path, small_files, monkeypatch):
    def compile_much(exported, *, package_path, inductor_configs):
        package_path.write(bytes(2**21))

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_much)
    (tmp_path / "p").mkdir()
    for path in package.iterdir():
        (tmp_path / "p" / path.name).hardlink_to(path)
    with pytest.raises(sw.PackageError, match=r"cannot write the package .*compiled: .*too large\n  nothing was left"):
        sw.compile_package(tmp_path / "p")
    assert len(list((tmp_path / "p").iterdir())) == len(list(package.iterdir()))


@pytest.fixture
def on_small_disk(tmp_path):
    """Runs words on a tmpfs of 4 MiB at ``tmp_path/disk``, mounted where nobody else sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def run(*words):
        script = f'mount -t tmpfs -o size=4m tmpfs "{disk}" && exec "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *words]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        root = Path(__file__).parents[2]
        return subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)

    if shutil.which("unshare") is None or run("true").returncode:
        pytest.skip("needs unshare and the right to mount a tmpfs (user namespaces, or root with CAP_SYS_ADMIN)")
    return run


@pytest.mark.ranks
def test_a_disk_that_is_really_full(on_small_disk, tmp_path):
    write_checkpoint(tmp_path / "model")
    script = ["-m", "tests.support.fill_disk", str(tmp_path / "disk"), str(tmp_path / "model")]
    done = on_small_disk(sys.executable, *script)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, (message, left, _) in found.items():
        assert message.startswith(f"PackageError: cannot write the package {tmp_path / 'disk' / 'p'}: "), name
        assert message.endswith("\n  nothing was left behind"), name
        assert left == [], name
    said = [message for message, _, _ in found.values()]
    assert "the disk has" in said[0]
    assert all("No space left on device" in message for message in said[1:])
    assert [filled for _, _, filled in found.values()] == [False, True, False, True]
