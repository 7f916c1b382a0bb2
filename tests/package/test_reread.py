"""A package is read back before it gets its name."""

from dataclasses import replace

import msgspec
import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.package import save


@pytest.fixture
def sharded():
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)), (torch.randn(2, 4),))
    return sw.shard(exported, mesh=2, plan={"0": "colwise", "1": "rowwise"})


def refused(sharded, folder, words):
    with pytest.raises(sw.PackageError, match="what was written does not open") as caught:
        sharded.save(folder / "p")
    assert words in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_graph_that_does_not_open(sharded, tmp_path, monkeypatch):
    monkeypatch.setattr(save, "graph_bytes", lambda exported: b"no archive")
    refused(sharded, tmp_path, "is not a graph of a package")


def test_weights_that_are_others(sharded, tmp_path, monkeypatch):
    write = save.write_tensors

    def write_renamed(path, slots, read, tell):
        renamed = [replace(slot, name=slot.name.replace("0.bias", "0.other")) for slot in slots]
        return write(path, renamed, lambda name: read(name.replace("0.other", "0.bias")), tell)

    monkeypatch.setattr(save, "write_tensors", write_renamed)
    refused(sharded, tmp_path, "holds other tensors than were written: 0.bias, 0.other")


def test_a_manifest_that_is_another(sharded, tmp_path, monkeypatch):
    write = save.write_manifest
    monkeypatch.setattr(save, "write_manifest", lambda folder, manifest: write(folder, replace_plan(manifest)))
    refused(sharded, tmp_path, "the manifest is another one")


def replace_plan(manifest):
    return msgspec.structs.replace(manifest, plan="another")
