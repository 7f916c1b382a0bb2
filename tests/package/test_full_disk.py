"""A disk that fills up while weights are streamed: one message, nothing left behind."""

import resource
import shutil

import pytest
import torch

import shardwright as sw
from tests.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(1, 8, dtype=torch.long)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "p"
    exported = torch.export.export(redraw(Decoder(width=256, hidden=512)), (IDS,))
    sw.shard(exported, mesh=2, plan=MEGATRON).save(path)
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
