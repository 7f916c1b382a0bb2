"""An optimiser's state in a package: damaged files are named, and it is kept through any number of packages."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import shardwright as sw


@pytest.fixture
def trained(tmp_path):
    args = (torch.randn(4, 8), torch.randn(4, 6))
    model = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 6))
    sw.shard(sw.export_training(model, args, loss=F.mse_loss), mesh=1).save(tmp_path / "out")
    step = sw.load(tmp_path / "out")
    optimizer = torch.optim.Adam(step.parameters())
    step(*args)
    optimizer.step()
    step.save(tmp_path / "trained", optimizer)
    return tmp_path / "trained", step, optimizer


def test_pieces_of_uneven_cuts_make_the_whole_again(trained, tmp_path):
    package, step, optimizer = trained
    sw.reshard(package, tmp_path / "three", mesh=3, plan={"0": "colwise", "2": "rowwise"})
    pieces = load_file(tmp_path / "three" / "optimizer-00001-of-00003.safetensors")
    assert pieces["0.weight:exp_avg"].shape == (3, 8)
    sw.reshard(tmp_path / "three", tmp_path / "two", mesh={"a": 2}, plan={"a": {"0": "rowwise"}})
    sw.gather(tmp_path / "two", tmp_path / "state.safetensors", optimizer=tmp_path / "optimizer.pt")
    found = torch.load(tmp_path / "optimizer.pt")
    for name, parameter in step.named_parameters():
        wanted = optimizer.state[parameter]
        assert found["state"][name].keys() == wanted.keys()
        assert all(torch.equal(found["state"][name][key], wanted[key]) for key in wanted)
    assert found["param_groups"][0]["betas"] == (0.9, 0.999)


def test_a_damaged_file_is_named(trained, tmp_path):
    package, *_ = trained
    file = package / "optimizer-00000-of-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    step = sw.load(package)
    for act in (
        lambda: step.resume(torch.optim.Adam(step.parameters())),
        lambda: sw.gather(package, tmp_path / "state.safetensors", optimizer=tmp_path / "optimizer.pt"),
        lambda: sw.reshard(package, tmp_path / "two", mesh=2),
    ):
        with pytest.raises(sw.PackageError, match=r"optimizer-00000-of-00001.safetensors does not have the contents"):
            act()
    assert not (tmp_path / "two").exists()


def test_two_files_are_two(trained, tmp_path):
    with pytest.raises(sw.PackageError, match="would both be written to"):
        sw.gather(trained[0], tmp_path / "state", optimizer=tmp_path / "state")


def test_of_two_files_that_cannot_both_be_placed_neither_is_left(trained, tmp_path, monkeypatch):
    state, optimizer, replace = tmp_path / "state.safetensors", tmp_path / "optimizer.pt", Path.replace

    def full(self, target):
        if Path(target) == optimizer:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(sw.PackageError, match="No space left"):
        sw.gather(trained[0], state, optimizer=optimizer)
    assert sorted(tmp_path.iterdir()) == before
