"""`shardwright report` and `shardwright diff`."""

import json

import pytest
import torch
from typer.testing import CliRunner

import shardwright as sw
from shardwright.cli.app import app
from shardwright.errors import ShardwrightError
from tests.support.models import MEGATRON, Decoder, redraw

IDS = torch.zeros(2, 8, dtype=torch.long)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a plan of its MLPs alone, and packages of the plan of all for 2 and 4 ranks."""
    path = tmp_path_factory.mktemp("report")
    exported = torch.export.export(redraw(Decoder()), (IDS,))
    torch.export.save(exported, path / "model.pt2")
    (path / "mlp.yaml").write_text("layers.*.mlp.*_proj: colwise\n")
    for ranks in (2, 4):
        sw.shard(exported, mesh=ranks, plan=MEGATRON).save(path / f"on{ranks}")
    return path


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(*words):
        found = CliRunner().invoke(app, list(map(str, words)))
        if found.exception is not None:
            raise found.exception
        return found.stdout

    return run


def test_a_report_of_a_model_and_of_a_package(run, folder):
    run("report", "model.pt2", "--plan", "mlp.yaml", "--hardware", "l4", "-o", "model.html", "--explorer", "seen")
    text = (folder / "model.html").read_text()
    assert "<title>model.pt2</title>" in text
    assert "Priced for l4" in text
    assert (folder / "seen" / "layouts-tp.json").exists()
    run("report", "on4", "-o", "package.html")
    assert "tp of 4 (4 ranks)" in (folder / "package.html").read_text()


def test_a_diff_of_packages_of_plans_and_of_both(run):
    found = json.loads(run("diff", "on2", "on4", "--json"))
    assert not found["equal"]
    assert {total["what"]: total["values"] for total in found["totals"]}["ranks"] == [2, 4]
    found = json.loads(run("diff", "mlp.yaml", "on2", "--model", "model.pt2", "--json"))
    assert {row["tensor"]: (row["mlp.yaml"], row["on2"]) for row in found["weights_held_otherwise"]} == {
        "layers.*.mlp.down_proj.weight": ("tp: Shard(0)", "tp: Shard(1)"),
        **{f"layers.*.self_attn.{name}_proj.weight": ("tp: whole", "tp: Shard(0)") for name in "qkv"},
        "layers.*.self_attn.o_proj.weight": ("tp: whole", "tp: Shard(1)"),
    }
    assert "Collectives of one only" in run("diff", "mlp.yaml", "on2", "--model", "model.pt2")
    assert "are the same" in run("diff", "on2", "on2")


def test_brackets_of_keys_and_names_are_shown(run, folder):
    (folder / "[red]plan.yaml").write_text("layers.*.mlp.[gate,up]_proj: colwise\n")
    said = run("diff", "[red]plan.yaml", "mlp.yaml", "--model", "model.pt2")
    assert "[red]plan.yaml" in said


def test_a_plan_is_written_beside_its_json(run, folder):
    assert "layers.*.mlp.down_proj.weight" in json.loads(run("plan", "model.pt2", "--json", "-o", "found.yaml"))
    assert (folder / "found.yaml").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("diff", "auto", "on2"), "a plan needs the model it is for"),
        (("report", "on2", "--plan", "auto", "-o", "x.html"), "has a plan already"),
        (("report", "on2", "--explorer", "x", "-o", "x.html"), "is a package"),
        (("report", "on2", "-o", "mlp.yaml"), "the page mlp.yaml exists already"),
        (("report", "model.pt2", "--explorer", "on2", "-o", "x.html"), "the folder on2 exists already"),
        (("report", "nothing.pt2", "-o", "x.html"), "there is no file nothing.pt2"),
        (("report", "model.pt2", "--explorer", "no/where", "-o", "x.html"), "the folder no does not exist"),
        (("report", "on2", "-o", "no/x.html"), "the folder no does not exist"),
        (("report", "model.pt2", "--explorer", "x.html", "-o", "x.html"), "name one path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_said(run, folder, words, says):
    with pytest.raises(ShardwrightError, match=says):
        run(*words)
    assert not (folder / "x.html").exists()
