"""Ranks compiled ahead of time give eager's numbers on real processes, and keep their state from call to call."""

import json
import shutil

import pytest
import torch

import shardwright as sw
from shardwright.cli import app
from shardwright.runtime.launch import launch
from tests.models import Cache, redraw
from typer.testing import CliRunner

X = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("aoti") / "p"
    exported = torch.export.export(redraw(Cache()), (X, torch.tensor([0])))
    sw.shard(exported, mesh=2).save(path)
    result = CliRunner().invoke(app, ["compile", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return path


def run_three(path):
    torch.set_num_threads(1)
    with torch.no_grad():
        module = sw.load(path, backend="aoti")
        return [module(X, torch.tensor([step])) for step in range(3)]


@pytest.mark.ranks
def test_state_is_kept_on_real_ranks(package):
    """A cache and a counter of no dims: inductor would fold the counter's start into the code."""
    model = redraw(Cache())
    with torch.no_grad():
        wanted = [model(X, torch.tensor([step])) for step in range(3)]
    for found in launch(2, run_three, str(package)).values():
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)
