"""``shardwright train-check``: right gradients, a wrong one with the node that made it, and programs without any."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import shardwright as sw
from shardwright.compiler import train_check
from shardwright.rules import REGISTRY
from shardwright.rules.registry import einsum
from tests.support.command_line import outcome, outputs


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("train-check")
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    torch.export.save(sw.export_training(MLP(), (x, x.flip(0)), loss=F.mse_loss), path / "step.pt2")
    torch.export.save(torch.export.export(MLP(), (x,)), path / "forward.pt2")
    (path / "plan.yaml").write_text("up: colwise\ndown: rowwise\n")
    return path


@pytest.mark.parametrize("words", [(), ("--dp", 2), ("--dp", 2, "--cut", "x", "--cut", "target")])
def test_right_gradients(folder, monkeypatch, capfd, words):
    monkeypatch.chdir(folder)
    code, said = outcome(monkeypatch, capfd, ("train-check", "step.pt2", "--plan", "plan.yaml", *words))
    assert code == 0, said
    assert "gradient of up.weight" in said
    assert "equal on every rank" in said


def test_a_wrong_gradient_is_narrowed_down_to_its_node(folder, monkeypatch, capfd):
    """A part of a batch that divides by its own size gives right losses, and gradients that are too large."""
    monkeypatch.chdir(folder)
    name, right = "aten::mse_loss_backward", REGISTRY.entry_named("aten::mse_loss_backward")
    REGISTRY.add(name, einsum(", b n, b n -> b n"), replace=True)
    try:
        words = ("train-check", "step.pt2", "--plan", "plan.yaml", "--dp", 2, "--json")
        code, said, _ = outputs(monkeypatch, capfd, words)
    finally:
        REGISTRY.add(name, right, replace=True)
    found = json.loads(said)
    assert code == 1
    assert found["ok"] is False
    errors = {row["value"]: float(row["relative error"]) for row in found["errors"]}
    assert errors["gradient of up.weight"] == pytest.approx(1.0)
    assert "first wrong node: mse_loss_backward (aten.mse_loss_backward.default)" in found["report"]


@pytest.fixture(scope="module")
def packages(folder):
    """Packages of that program, of which one takes parts of a batch, and the inputs."""
    joint = torch.export.load(folder / "step.pt2")
    plan = {"up": "colwise", "down": "rowwise"}
    sw.shard(joint, mesh=2, plan=plan).save(folder / "package")
    parts = {"dp": {"x": sw.Shard(0), "target": sw.Shard(0)}}
    sw.shard(joint, mesh={"dp": 2, "tp": 2}, plan={"tp": plan}, inputs=parts).save(folder / "parts")
    save_file({"x": torch.randn(4, 8), "target": torch.randn(4, 8)}, folder / "inputs.safetensors")
    return folder


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["package", "parts"])
def test_a_package_runs_a_step_on_real_ranks(packages, monkeypatch, capfd, name):
    """Also where each rank takes its part of a batch, and divides by the number of all."""
    monkeypatch.chdir(packages)
    code, said, err = outputs(monkeypatch, capfd, ("train-check", name, "-i", "inputs.safetensors", "--json"))
    assert code == 0, err
    found = json.loads(said)
    assert found["max_error"] < 1e-5
    values = {row["value"] for row in found["errors"]}
    assert values == {"loss", *(f"gradient of {one}.{kind}" for one in ("up", "down") for kind in ("weight", "bias"))}


@pytest.mark.ranks
def test_a_package_whose_graph_gives_another_gradient_is_found(packages, monkeypatch, capfd):
    monkeypatch.chdir(packages)
    real = train_check.run_graph

    def other(*args):
        return [value * 1.5 for value in real(*args)]

    monkeypatch.setattr(train_check, "run_graph", other)
    code, said = outcome(monkeypatch, capfd, ("train-check", "package", "-i", "inputs.safetensors"))
    assert code == 1
    assert "gradient of up.weight on rank 1: relative error" in said


@pytest.mark.ranks
def test_a_gradient_that_is_zero_but_for_rounding_is_right(tmp_path, monkeypatch, capfd):
    """Of a bias before a norm over all rows, which takes it out again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 8)).train()
    given = {"input": torch.randn(16, 8), "target": torch.randn(16, 8)}
    joint = sw.export_training(model, tuple(given.values()), loss=F.mse_loss)
    sw.shard(joint, mesh=2, plan={"0": "colwise", "3": "rowwise"}).save(tmp_path / "out")
    save_file(given, tmp_path / "inputs.safetensors")
    monkeypatch.chdir(tmp_path)
    code, said, err = outputs(monkeypatch, capfd, ("train-check", "out", "-i", "inputs.safetensors", "--json"))
    assert code == 0, err + said
    found = json.loads(said)
    assert "gradient of 0.bias: relative error" in found["report"]
    assert found["max_error"] < 1e-5


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("package",), "--inputs FILE.safetensors"),
        (("package", "--tp", 4), "--tp: for programs"),
        (("package", "--no-lean"), "--no-lean: for programs"),
    ],
)
def test_what_a_package_does_not_take(packages, monkeypatch, capfd, words, wanted):
    monkeypatch.chdir(packages)
    code, said = outcome(monkeypatch, capfd, ("train-check", *words))
    assert code == 1
    assert wanted in said


def test_a_damaged_package_is_not_opened(packages, monkeypatch, capfd):
    monkeypatch.chdir(packages)
    shutil.copytree("package", "damaged")
    Path("damaged", "original.pt2").write_bytes(b"PK")
    code, said = outcome(monkeypatch, capfd, ("train-check", "damaged", "-i", "inputs.safetensors"))
    assert code == 1
    assert "original.pt2 has 2 bytes" in said


REFUSED = {
    "a program for inference": (("forward.pt2",), "computes no gradients"),
    "a folder": ((".",), "is a folder or a checkpoint"),
    "an unknown input": (("step.pt2", "--dp", 2, "--cut", "targt"), "'target'"),
    "an input to cut in one part": (("step.pt2", "--cut", "x"), "--dp 2"),
    "no ranks": (("step.pt2", "--tp", 0), "--tp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_gradients_is_refused_in_words(folder, monkeypatch, capfd, case):
    monkeypatch.chdir(folder)
    words, wanted = REFUSED[case]
    code, said = outcome(monkeypatch, capfd, ("train-check", *words))
    assert code != 0
    assert wanted in said
    assert "Traceback" not in said
