"""A compiled rank gives eager's numbers, on real ranks, with buffers that change from call to call."""

import pytest
import torch

import shardwright as sw
from tests.support.models import Cache, redraw
from tests.support.ranks import on_ranks

X = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "p"
    exported = torch.export.export(redraw(Cache()), (X, torch.tensor([0])))
    sw.shard(exported, mesh=2).save(path)
    return path


def run_three(rank, path):
    with torch.no_grad():
        module = sw.load(path, backend="compile")
        return [module(X, torch.tensor([step])) for step in range(3)]


@pytest.mark.ranks
def test_compiled_ranks_give_the_same_numbers(package):
    model = redraw(Cache())
    with torch.no_grad():
        wanted = [model(X, torch.tensor([step])) for step in range(3)]
    for found in on_ranks(2, run_three, str(package)):
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)


def test_a_backend_that_is_none(tmp_path):
    exported = torch.export.export(redraw(Cache()), (X, torch.tensor([0])))
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    with pytest.raises(sw.PackageError, match="there is no backend 'fast'"):
        sw.load(tmp_path / "p", backend="fast")
