"""int4 values lie as one kind of CPU reads them: on another the package is refused."""

import pytest
import torch

import shardwright as sw
from shardwright.package.manifest import read_manifest
from tests.support.quantized import INT4, WEIGHT_ONLY, Block, quantized, rows


def test_a_package_says_what_it_was_packed_for(tmp_path, monkeypatch):
    inputs = (rows(dtype=torch.bfloat16),)
    exported, _ = quantized(INT4["int4"], Block(hidden=128), inputs, torch.bfloat16)
    sw.shard(exported, mesh=1).save(tmp_path / "one")
    here = torch.backends.cpu.get_cpu_capability()
    assert read_manifest(tmp_path / "one").packed_for == here
    assert torch.equal(sw.load(tmp_path / "one")(*inputs), exported.module()(*inputs))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ZVECTOR")
    for opens in (sw.load, lambda folder: sw.reshard(folder, tmp_path / "two", mesh=2)):
        with pytest.raises(sw.PackageError, match=f"packed for a CPU with {here}, and this one has ZVECTOR"):
            opens(tmp_path / "one")


def test_what_any_cpu_reads_is_packed_for_none(tmp_path):
    exported, _ = quantized(WEIGHT_ONLY["intx by group"])
    sw.shard(exported, mesh=1).save(tmp_path / "one")
    assert read_manifest(tmp_path / "one").packed_for == ""
