"""Weights that are read by one token at a time lie column by column; values, names and tied ones stay."""

import json
import mmap
import zipfile

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.lean.columns import lay_in_columns
from tests.support.models import redraw
from tests.support.ranks import on_ranks

IDS = torch.randint(0, 2048, (1, 3), generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """A head tied to its embedding, a wide and a tall projection, one whose weight is viewed, and a small one."""

    def __init__(self):
        super().__init__()
        self.embed, self.lm_head = nn.Embedding(2048, 256), nn.Linear(256, 2048, bias=False)
        self.lm_head.weight = self.embed.weight
        self.up, self.down, self.viewed = nn.Linear(256, 1024), nn.Linear(1024, 256), nn.Linear(256, 1024)
        self.small = nn.Linear(256, 256)

    def forward(self, ids):
        x = self.embed(ids)
        x = self.down(torch.relu(self.up(x))) + self.small(x)
        return self.lm_head(x), self.viewed(x) * self.viewed.weight.view(-1)[0]


def laid(named):
    return {".".join(name.split(".")[-2:]): tensor.stride() for name, tensor in named if tensor.dim() == 2}


def test_wide_weights_are_turned_and_others_stay():
    exported = torch.export.export(redraw(Tied()), (IDS,))
    plain, module = exported.module(), exported.module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wanted = plain(IDS)
    assert lay_in_columns(module) == 2
    turned = {"embed.weight": (1, 2048), "lm_head.weight": (1, 2048), "up.weight": (1, 1024)}
    stay = {"down.weight": (1024, 1), "viewed.weight": (256, 1), "small.weight": (256, 1)}
    assert laid(module.named_parameters(remove_duplicate=False)) == {**turned, **stay}
    assert module.embed.weight.data_ptr() == module.lm_head.weight.data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    for found, one in zip(module(IDS), wanted, strict=True):
        torch.testing.assert_close(found, one)
    assert lay_in_columns(module) == 0


def test_turned_weights_lie_the_same_where_the_system_has_no_large_pages(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    exported = torch.export.export(redraw(Tied()), (IDS,))
    plain, module = exported.module(), exported.module()
    assert lay_in_columns(module) == 2
    assert laid(module.named_parameters())["up.weight"] == (1, 1024)
    for found, one in zip(module(IDS), plain(IDS), strict=True):
        torch.testing.assert_close(found, one)


def test_weights_of_fewer_digits_stay():
    exported = torch.export.export(redraw(Tied()).bfloat16(), (IDS,))
    assert lay_in_columns(exported.module()) == 0


@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_a_loaded_package_gives_the_same_numbers(tmp_path, backend):
    model = redraw(Tied())
    sw.shard(torch.export.export(model, (IDS,)), mesh=1, plan={}).save(tmp_path / "out")
    loaded = sw.load(tmp_path / "out", backend=backend)
    assert laid(loaded.named_parameters())["up.weight"] == (1, 1024)
    for found, one in zip(loaded(IDS), model(IDS), strict=True):
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)
    other = {name: value * 2 for name, value in loaded.state_dict().items()}
    loaded.load_state_dict(other)
    assert laid(loaded.named_parameters())["up.weight"] == (1, 1024)
    as_stored = sw.load(tmp_path / "out", prepare_bytes=0)
    assert laid(as_stored.named_parameters())["up.weight"] == (256, 1)


def test_compiled_code_reads_turned_weights_and_sees_what_is_written_to_them(tmp_path):
    model = redraw(Tied())
    sw.shard(torch.export.export(model, (IDS,)), mesh=1, plan={}).save(tmp_path / "out")
    sw.compile_package(tmp_path / "out")
    loaded = sw.load(tmp_path / "out", backend="aoti")
    assert laid(loaded.exported.state_dict.items())["up.weight"] == (1, 1024)
    assert laid(loaded.exported.state_dict.items())["viewed.weight"] == (256, 1)
    with zipfile.ZipFile(tmp_path / "out" / "compiled" / "graph-0.pt2") as archive:
        [name] = [name for name in archive.namelist() if name.endswith("wrapper_metadata.json")]
        said = json.loads(json.loads(archive.read(name))["shardwright_weights"])
    assert {one["name"] for one in said if one["columns"]} == {"embed.weight", "up.weight"}
    for _ in range(2):
        for found, one in zip(loaded(IDS), model(IDS), strict=True):
            torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for weight in (model.up.weight, loaded.exported.state_dict["up.weight"]):
                weight.mul_(2)


def called(rank, package):
    model = sw.load(package)
    return laid(model.named_parameters())["up.weight"], model(IDS)


@pytest.mark.ranks
def test_real_ranks_give_the_same_numbers(tmp_path):
    model, plan = redraw(Tied()), {"up": "colwise", "down": "rowwise"}
    model.up, model.down = nn.Linear(256, 4096), nn.Linear(4096, 256)
    sw.shard(torch.export.export(redraw(model), (IDS,)), mesh=2, plan=plan).save(tmp_path / "out")
    for strides, found in on_ranks(2, called, str(tmp_path / "out")):
        assert strides == (1, 2048)
        for one, whole in zip(found, model(IDS), strict=True):
            torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-4)
