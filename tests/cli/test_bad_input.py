"""Every command on bad paths, numbers and names: words and an exit code, no traceback, no file made or changed."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import shardwright as sw
from tests.support.command_line import outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A program, a package, inputs, and one of each kind of path that is neither."""
    path = tmp_path_factory.mktemp("bad")
    exported = torch.export.export(nn.Linear(4, 6), (torch.randn(2, 4),))
    torch.export.save(exported, path / "model.pt2")
    x, target = torch.randn(2, 4), torch.randn(2, 6)
    joint = sw.export_training(nn.Linear(4, 6), (x, target), loss=nn.functional.mse_loss)
    torch.export.save(joint, path / "step.pt2")
    sw.shard(exported, mesh=1, plan={}).save(path / "package")
    save_file({"input": torch.randn(2, 4)}, path / "inputs.safetensors")
    (path / "plan.yaml").write_text("weight: {shard: 0}\n")
    (path / "text.yaml").write_text("just words")
    (path / "list.yaml").write_text("- weight\n")
    (path / "broken.yaml").write_text("weight: [")
    (path / "empty").write_bytes(b"")
    (path / "binary").write_bytes(bytes(range(256)) * 8)
    (path / "nothing_in_it").mkdir()
    (path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    os.mkfifo(path / "pipe")
    (path / "loop").symlink_to("loop")
    return path


def listing(folder):
    """Every path below a folder, with the size of files."""
    return {path: path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


PATHS = ["missing", "nothing_in_it", "pipe", "empty", "binary", "loop", "/dev/null", "a\nb", "", "empty/below"]
OUTPUTS = ["package", "empty", "empty/below", "missing/below", "loop", "/proc/out", ""]
NUMBERS = ["nan", "inf", "-1", "words", "1e400", ""]

COMMANDS = {
    "inspect": ("inspect", "model.pt2"),
    "plan": ("plan", "model.pt2"),
    "verify": ("verify", "model.pt2"),
    "train-check": ("train-check", "step.pt2"),
    "shard": ("shard", "model.pt2", "-o", "new"),
    "compile": ("compile", "package"),
    "run": ("run", "package", "-i", "inputs.safetensors", "-o", "new"),
    "generate": ("generate", "package", "-p", "words"),
    "chat": ("chat", "package"),
    "gather": ("gather", "package", "-o", "new"),
    "reshard": ("reshard", "package", "-o", "new", "--tp", "2"),
}


def bad():
    """Every bad command line, as words."""
    for name, words in COMMANDS.items():
        yield from ((name, path, *words[2:]) for path in (*PATHS, "model.gguf"))
        yield (name,)
        yield (*words, "--no-such-option")
        yield (*words, "further")
    for name in ("inspect", "plan", "verify", "shard", "reshard"):
        rest = COMMANDS[name][:-2] if name == "reshard" else COMMANDS[name]
        yield from ((*rest, "--tp", number) for number in (*NUMBERS, "0", "1.5"))
    for name in ("plan", "verify", "shard", "reshard"):
        yield from ((*COMMANDS[name], "--tp", number) for number in ("1000000000", "99999999999999999999999"))
    for name in ("inspect", "verify", "shard", "reshard"):
        given = ("text.yaml", "list.yaml", "broken.yaml", "model.pt2", *PATHS)
        yield from ((*COMMANDS[name], "--plan", path) for path in given)
    for name in ("shard", "run", "gather", "reshard"):
        at = COMMANDS[name].index("-o") + 1
        yield from ((*COMMANDS[name][:at], path, *COMMANDS[name][at + 1 :]) for path in OUTPUTS)
    yield from (("plan", "model.pt2", "-o", path) for path in OUTPUTS)
    yield from (("run", "package", "-i", path, "-o", "new") for path in (*PATHS, "model.pt2"))
    yield from (("verify", "model.pt2", "-i", path) for path in (*PATHS, "model.pt2"))
    for name, option in (("plan", "--slack"), ("shard", "--slack"), ("run", "--timeout"), ("generate", "--timeout")):
        yield from ((*COMMANDS[name], option, number) for number in NUMBERS)
    for name, option in (("plan", "--effort"), ("shard", "--effort"), ("run", "--timeout"), ("verify", "--tolerance")):
        yield from ((*COMMANDS[name], option, number) for number in (*NUMBERS, *(["0"] if name != "verify" else [])))
    yield from ((*COMMANDS["train-check"], "--dp", number) for number in ("0", "words", "1000000000"))
    yield from ((*COMMANDS["train-check"], "--dp", "2", "--cut", name) for name in ("", "targt", "weight"))
    yield from (
        (*COMMANDS["train-check"], *more) for more in (("--plan", "text.yaml"), ("-i", "empty"), ("--dump", ""))
    )
    for option in ("--temperature", "--top-p", "--seed", "--max-tokens"):
        yield from ((*COMMANDS[name], option, number) for name in ("generate", "chat") for number in NUMBERS)
    yield from (("generate", "package", "--prompts", path) for path in PATHS)
    yield from ((*COMMANDS[name], "--backend", kind) for name in ("run", "generate") for kind in ("", "eagre", "EAGER"))
    for name in ("plan", "verify", "shard"):
        yield from ((*COMMANDS[name], "--dump", path) for path in ("", "package", "empty", "empty/below", "loop"))
    yield from ((*COMMANDS["shard"], "--dtype", kind) for kind in ("float33", "", "int8", "float32"))
    yield from ((*COMMANDS["shard"], "--cache-length", number) for number in (*NUMBERS, "16"))
    yield from ((word,) for word in ("no-such-command", "", "--no-such-option"))


@pytest.mark.parametrize("words", sorted(set(bad())), ids=" ".join)
def test_bad_input_gets_words(folder, monkeypatch, capfd, words):
    monkeypatch.chdir(folder)
    before = listing(folder)
    code, said = outcome(monkeypatch, capfd, words)
    assert code not in (0, None), said
    assert said.strip()
    assert "Traceback" not in said
    assert len(said) < 6000
    assert listing(folder) == before
