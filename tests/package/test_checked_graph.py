"""Graphs of a package are read where their files are those that were written."""

import pytest
import torch

import shardwright as sw
from shardwright.package.checked_graph import checked_graph
from shardwright.package.manifest import read_manifest
from tests.support.models import MLPs, redraw


def test_a_file_that_is_not_the_written_one_is_not_read(tmp_path):
    exported = torch.export.export(redraw(MLPs()), (torch.randn(4, 12),))
    sw.shard(exported, mesh=2, plan="auto").save(tmp_path / "p")
    folder = tmp_path / "p"
    manifest = read_manifest(folder)
    found = checked_graph(folder, manifest, manifest.original)
    assert [*found.state_dict] == [*exported.state_dict]
    path = folder / manifest.original
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(sw.PackageError, match="does not have the contents the manifest says"):
        checked_graph(folder, manifest, manifest.original)
    path.unlink()
    with pytest.raises(sw.PackageError, match=f"lacks {manifest.original}"):
        checked_graph(folder, manifest, manifest.original)
