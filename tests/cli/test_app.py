"""The command line, as a user meets it: every command, and every kind of bad input."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.command_line import outcome, outputs, shardwright
from tests.support.models import MEGATRON, Decoder, redraw, relative_error

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    torch.export.save(torch.export.export(redraw(Decoder()), (IDS,)), path / "model.pt2")
    save_file({"ids": IDS}, path / "inputs.safetensors")
    save_file({"ids": IDS[:1]}, path / "short.safetensors")
    (path / "plan.yaml").write_text("".join(f'"{k}": {v}\n' for k, v in MEGATRON.items()))
    (path / "typo.yaml").write_text("layers.*.self_atn.o_proj: rowwise\n")
    (path / "other.yaml").write_text("transformer.h.*.mlp.c_fc: colwise\nwte: embedding_rowwise\n")
    (path / "truncated.pt2").write_bytes((path / "model.pt2").read_bytes()[:20_000])
    (path / "notes.txt").write_text("not a model")
    return path


@pytest.fixture
def here(folder, monkeypatch, capfd):
    """The command line in this process: words → exit code and what was printed."""
    monkeypatch.chdir(folder)
    return lambda *words: outcome(monkeypatch, capfd, words)


@pytest.fixture
def printed(folder, monkeypatch, capfd):
    """Standard output of a command in this process that succeeds."""
    monkeypatch.chdir(folder)

    def run(*words):
        code, out, err = outputs(monkeypatch, capfd, words)
        assert code == 0, err
        return out

    return run


def stages(folder):
    return sorted(path.name for path in (folder / "stages").iterdir())


def test_inspect(folder, here):
    shown = shardwright(folder, "inspect", "model.pt2", "--tp", 4)
    assert shown.returncode == 0
    assert "0 … 1 (2 equal) Block" in shown.stdout
    data = json.loads(here("inspect", "model.pt2", "--json")[1])
    embed = next(row for row in data["tensors"] if row["tensor"] == "embed.weight")
    assert (embed["kind"], embed["bytes"]) == ("parameter", 96 * 64 * 4)
    assert data["inputs"] == ["ids"]


def test_plans_are_priced_for_the_hardware_that_is_named(here):
    code, said = here("inspect", "model.pt2", "--plan", "plan.yaml", "--hardware", "cpu-gloo")
    assert code == 0, said
    assert "predicted for cpu-gloo: " in said
    assert "slower than one rank: 1.2 ms of latencies" in said


@pytest.mark.ranks
def test_what_is_measured_prices_plans(folder, printed):
    words = "--ranks", 2, "--threads", 1, "--transport", "gloo", "-o", "cost.json"
    measured = json.loads(printed("calibrate", *words, "--json"))
    constants = {row["constant"]: row["value"] for row in measured["constants"]}
    assert constants == json.loads((folder / "cost.json").read_text())["constants"]
    words = "--plan", "plan.yaml", "--hardware", "cost.json"
    prediction = json.loads(printed("inspect", "model.pt2", *words, "--json"))["prediction"]
    assert prediction["hardware"] == "2 × CPU through gloo"
    assert prediction["latency_us"] == pytest.approx(4 * constants["latency_us"])


def test_plan_verify_shard_run(folder, here, printed):
    printed("plan", "model.pt2", "-o", "auto.yaml", "--dump", "stages")
    assert stages(folder)[0] == "01-program.txt"
    assert "by 'layers" not in (folder / "stages" / "02-tp-pins.txt").read_text()
    code, said = here("plan", "model.pt2", "-o", "auto.yaml")
    assert code == 1
    assert "exists already" in said
    spelled = json.loads(here("plan", "model.pt2", "--json")[1])
    assert spelled["layers.*.mlp.down_proj.weight"] == {"shard": 1}
    code, said = here("verify", "model.pt2", "--plan", "auto.yaml", "--dump", "stages")
    assert code == 0, said
    assert "equal on every rank" in said
    assert "by 'layers.*.mlp.down_proj.weight'" in (folder / "stages" / "02-tp-pins.txt").read_text()
    words = "--plan", "plan.yaml", "-o", "package", "--dump", "stages"
    data = json.loads(printed("shard", "model.pt2", *words, "--json"))
    assert "by 'layers.*.mlp.down_proj'" in (folder / "stages" / "02-tp-pins.txt").read_text()
    assert [(row["kind"], row["count"]) for row in data["collectives"]] == [("all_reduce", 2), ("all_reduce", 2)]
    assert (data["prediction"]["hardware"], data["prediction"]["num_collectives"]) == ("h100", 4)
    words = "-i", "inputs.safetensors", "-o", "outputs.safetensors"
    ran = json.loads(printed("run", "package", *words, "--json"))
    assert ran["outputs"] == [{"output": "0", "shape": "(2, 8, 96)", "dtype": "float32"}]
    assert relative_error(load_file(folder / "outputs.safetensors")["0"], redraw(Decoder())(IDS)) < 1e-5


BAD = {
    "not a pt2": (("verify", "notes.txt"), "is not an exported program"),
    "a truncated one": (("verify", "truncated.pt2"), "truncated"),
    "no such file": (("inspect", "nothing.pt2"), "there is no file nothing.pt2"),
    "a misspelt key": (("verify", "model.pt2", "--plan", "typo.yaml"), "'layers.*.self_attn.o_proj'"),
    "another model's plan": (("shard", "model.pt2", "--plan", "other.yaml", "-o", "new"), "2 problems"),
    "more ranks than a dim": (
        ("shard", "model.pt2", "--plan", "plan.yaml", "--tp", 100, "-o", "new"),
        "has only 64 indices",
    ),
    "no such plan": (("verify", "model.pt2", "--plan", "atuo"), "neither 'auto', 'hf', 'diffusers' nor a file"),
    "a model without a plan of its own": (("verify", "model.pt2", "--plan", "hf"), "plan='hf' found no plan"),
    "no such hardware": (("shard", "model.pt2", "--hardware", "h10", "-o", "new"), "try: 'h100'"),
    "a cost file that is none": (("plan", "model.pt2", "--hardware", "./notes.txt"), "is not a cost model"),
    "a cost file that exists": (("calibrate", "-o", "notes.txt"), "the cost model notes.txt exists already"),
    "hardware without a plan": (("inspect", "model.pt2", "--hardware", "l4"), "--hardware prices a plan"),
    "an example for a program": (
        ("inspect", "model.pt2", "--example", "plan.yaml", "--method", "decode"),
        "--example, --method: for checkpoints, which are exported here; model.pt2 is an exported program",
    ),
    "a variant of a program": (("shard", "model.pt2", "--variant", "fp16", "-o", "new"), "--variant: for checkpoints"),
    "inputs of the wrong shape": (("verify", "model.pt2", "-i", "short.safetensors"), "must have shape (2, 8)"),
    "no safetensors": (("verify", "model.pt2", "-i", "notes.txt"), "cannot read inputs"),
    "no package": (("run", ".", "-i", "inputs.safetensors", "-o", "new"), "no readable shardwright.json"),
    "an output folder that exists": (("shard", "model.pt2", "-o", "."), "exists already"),
    "a folder that does not": (("shard", "model.pt2", "-o", "no/where"), "does not exist"),
}


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_message(folder, here, words, says):
    before = {path.name for path in folder.iterdir()}
    code, said = here(*words)
    assert code == 1, said
    assert says in " ".join(said.split())
    assert "Traceback" not in said
    assert {path.name for path in folder.iterdir()} - before <= {
        "auto.yaml",
        "package",
        "stages",
        "outputs.safetensors",
    }


def test_a_full_disk_leaves_nothing_behind(folder):
    import resource

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    result = shardwright(folder, "shard", "model.pt2", "-o", "full", preexec=small_files)
    assert result.returncode == 1
    assert "cannot write the package" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in folder.iterdir() if "full" in path.name]
