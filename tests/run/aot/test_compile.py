"""Ranks compiled ahead of time give eager's numbers on real processes, and keep their state from call to call."""

import json
import shutil
import threading
import time
import zipfile

import msgspec
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import shardwright as sw
from shardwright.cli.app import app
from shardwright.package.manifest import read_manifest
from shardwright.program.stateless import without_state
from shardwright.run.aot import machine as native
from shardwright.run.aot.compiled_manifest import CompiledManifest, find_compiled
from shardwright.run.aot.machine import misfits, this_machine
from shardwright.run.launch import launch
from tests.support import inside
from tests.support.models import GLU, Cache, redraw
from tests.support.ranks import on_ranks
from tests.support.tiny import write_checkpoint

X = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1))
ROUNDS = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))


class Branches(nn.Module):
    """Collectives that do not depend on one another, uneven shares, state, an input written to, a constant output."""

    def __init__(self):
        super().__init__()
        self.glus = nn.ModuleList(GLU(16, hidden) for hidden in (7, 5))
        self.cache = Cache()

    def forward(self, x, position, *, total):
        total.add_(x.sum(0))
        return [glu(x) for glu in self.glus], 3, self.cache(x, position), total * 2


def package_of(model, inputs, kwargs, num_ranks, plan, path):
    sw.shard(torch.export.export(redraw(model), inputs, kwargs), mesh=num_ranks, plan=plan).save(path)
    result = CliRunner().invoke(app, ["compile", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("aoti") / "p"
    return package_of(Cache(), (X, torch.tensor([0])), {}, 2, "auto", path)


def run_three_and_hang(path, transport):
    torch.set_num_threads(1)
    model = redraw(Cache())
    with torch.no_grad():
        module = sw.load(path, backend="aoti", transport=transport)
        for step in range(3):
            torch.testing.assert_close(module(X, torch.tensor([step])), model(X, torch.tensor([step])))
        if torch.distributed.get_rank() == 1:
            time.sleep(100)
        module(X, torch.tensor([3]))


@pytest.mark.ranks
@pytest.mark.parametrize("transport", ["gloo", "shared_memory"])
def test_state_is_kept_on_real_ranks_and_one_that_hangs_is_named(package, transport):
    """A cache and a counter of no dims: inductor would fold the counter's start into the code."""
    with pytest.raises(
        sw.RunError, match=r"waited 8 s without an answer: rank 1 is at \S*test_compile.py:\d+ \(run_three_and_hang\)$"
    ):
        launch(2, run_three_and_hang, str(package), transport, timeout_s=8)


def run_while_another_thread_must(run, folder):
    """Run on all ranks; the first joins only when a thread of every other has run while that rank waits for it."""
    rank, others = torch.distributed.get_rank(), range(1, torch.distributed.get_world_size())

    def say_so():
        # By then the rank's main thread waits within compiled code.
        time.sleep(0.5)
        (folder / f"alive-{rank}").touch()

    torch.distributed.barrier()
    thread = threading.Thread(target=say_so, daemon=True)
    if rank:
        thread.start()
    deadline = time.monotonic() + 60
    while not rank and not all((folder / f"alive-{other}").exists() for other in others):
        assert time.monotonic() < deadline, "compiled code holds the interpreter lock while it waits"
        time.sleep(0.01)
    run()


def run_branches(path, folder):
    torch.set_num_threads(1)
    module = sw.load(path, backend="aoti")
    total = torch.zeros(16, 1).T
    wide = torch.cat([X, X], -1)[..., ::2]
    found = []
    run_while_another_thread_must(lambda: module(wide, torch.tensor([7]), total=total.clone()), folder)
    module = sw.load(path, backend="aoti")
    with torch.no_grad():
        for step in range(40):
            # What torch has seen is freed by gloo's threads, which need the interpreter lock.
            torch.distributed.broadcast(torch.tensor([step]), 0)
            found.append(module(wide, torch.tensor([step % 8]), total=total))
    return found[::13], total


def run_rounds(rank, path):
    module = sw.load(path, backend="aoti")
    return [module(x) for x in (ROUNDS, -ROUNDS)]


@pytest.mark.ranks
def test_ranks_communicate_in_every_round_of_a_loop(tmp_path):
    plan = {"up": "colwise", "down": "colwise"}
    path = package_of(inside.Loop(), (ROUNDS,), {}, 2, plan, tmp_path / "p")
    assert {c.kind for c in read_manifest(path).collectives} == {"all_gather"}
    wanted = [redraw(inside.Loop())(x) for x in (ROUNDS, -ROUNDS)]
    for found in on_ranks(2, run_rounds, str(path)):
        torch.testing.assert_close(found, wanted)


@pytest.mark.ranks
def test_three_uneven_ranks(tmp_path):
    kwargs = {"total": torch.zeros(1, 16)}
    plan = {"glus.*.[gate,up]_proj": "colwise", "glus.*.down_proj": "rowwise"}
    path = package_of(Branches(), (X, torch.tensor([0])), kwargs, 3, plan, tmp_path / "p")
    assert len(set(read_manifest(path).graphs)) > 1
    model, total = redraw(Branches()), torch.zeros(1, 16)
    wide = torch.cat([X, X], -1)[..., ::2]
    with torch.no_grad():
        wanted = [model(wide, torch.tensor([step % 8]), total=total) for step in range(40)][::13]
    for found in launch(3, run_branches, str(path), tmp_path, timeout_s=90).values():
        torch.testing.assert_close(found, (wanted, total))


def test_inputs_may_be_called_as_python_s_own_functions():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, input, max):
            max.add_(1)
            return self.linear(input).minimum(max), input + 1

    model, inputs, others = redraw(Named()), *((torch.ones(2, 4), torch.zeros(6)) for _ in range(2))
    stateless = without_state(torch.export.export(model, inputs), {})
    assert stateless.exported.graph_signature.user_inputs[-2:] == ("input", "max")
    state = [model.get_parameter(name) for name in stateless.state]
    torch.testing.assert_close(stateless.exported.module()(*state, *inputs), model(*others))
    torch.testing.assert_close(inputs, others)


def test_a_decoder_on_one_rank(tmp_path):
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=1, cache_length=40)
    sw.compile_package(tmp_path / "p")
    eager, compiled = (sw.load(tmp_path / "p", backend=name) for name in ("eager", "aoti"))
    for prompt in ([5, 6, 7, 8], [9]):
        text = list(sw.generate(eager, prompt, max_new_tokens=12))
        assert list(sw.generate(compiled, prompt, max_new_tokens=12)) == text
        assert len(text) > 3
    with pytest.raises(sw.InputError, match="inputs are on meta, the compiled program is on cpu"):
        compiled(input_ids=torch.zeros(1, 4, dtype=torch.long, device="meta"), attention_mask=torch.ones(1, 4).long())
    with pytest.raises(sw.InputError, match=r"dim 1 of input .* must be at most 40, got 41"):
        compiled(input_ids=torch.zeros(1, 41, dtype=torch.long), attention_mask=torch.ones(1, 41).long())


def test_the_archive_says_what_to_pass(package):
    """C++ reads this with get_metadata()."""
    manifest = read_manifest(package)
    ranks = [find_compiled(package, manifest, rank) for rank in range(2)]
    assert ranks[0].program == ranks[1].program
    with zipfile.ZipFile(ranks[0].program) as archive:
        name = next(n for n in archive.namelist() if n.endswith("wrapper_metadata.json"))
        said = json.loads(archive.read(name))["shardwright_weights"]
    assert json.loads(said) == [{"name": name, "columns": False} for name in ranks[0].entry.state]
    assert {"keys", "calls"} < set(ranks[0].entry.state)


@pytest.fixture
def copied(package, tmp_path):
    return shutil.copytree(package, tmp_path / "q")


def set_target(**facts):
    return lambda said: said["target"].update(facts)


REFUSALS = {
    "another torch": (set_target(torch="1.0"), r"compiled for torch '1.0', here is '2"),
    "another system": (set_target(system="plan9 pdp11"), "compiled for system 'plan9 pdp11', here is"),
    "another processor": (set_target(instructions="avx9 amx_dream"), "lacks instructions .*: amx_dream, avx9"),
    "another number of ranks": (lambda said: said.update(mesh={"tp": 4}, ranks=[0] * 4), "compiled for 4 ranks"),
    "other graphs": (lambda said: said["programs"][0].update(graph_sha256="0"), "from other graphs"),
    "another version": (lambda said: said.update(format_version=9), "has format version 9; this Shardwright reads 2"),
    "a rank without a program": (lambda said: said.update(ranks=[0, 7]), "names no program for rank 1"),
    "a file outside": (lambda said: said["files"][0].update(name="../x"), "names files outside"),
    "a file not listed": (lambda said: said.update(runner="x"), r"does not list \['x'\]"),
    "an unknown field": (lambda said: said.update(more=1), "is damaged"),
}


@pytest.mark.parametrize(("change", "says"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_fit_is_refused(copied, change, says):
    path = copied / "compiled" / "compiled.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    with pytest.raises(sw.PackageError, match=f"(?s){says}"):
        find_compiled(copied, read_manifest(copied), 1)


def test_an_altered_or_missing_file_is_refused(copied):
    manifest = read_manifest(copied)
    for name in ("runner.so", "graph-0.pt2"):
        path = copied / "compiled" / name
        honest = path.read_bytes()
        path.write_bytes(honest[:-1] + bytes([honest[-1] ^ 1]))
        with pytest.raises(sw.PackageError, match=f"{name} does not have the contents"):
            find_compiled(copied, manifest, 0)
        path.write_bytes(honest[:-1])
        with pytest.raises(sw.PackageError, match=f"{name} has .* truncated"):
            find_compiled(copied, manifest, 0)
        path.unlink()
        with pytest.raises(sw.PackageError, match=f"lacks {name}"):
            find_compiled(copied, manifest, 0)
        path.write_bytes(honest)
    shutil.rmtree(copied / "compiled")
    with pytest.raises(sw.PackageError, match="is not compiled\n  try: shardwright compile"):
        find_compiled(copied, manifest, 0)


def test_a_package_that_is_compiled_already(package):
    with pytest.raises(sw.PackageError, match="is compiled already\n  try: remove"):
        sw.compile_package(package)


def test_without_a_compiler_nothing_is_left(copied, monkeypatch):
    shutil.rmtree(copied / "compiled")
    before = sorted(copied.iterdir())
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(sw.PackageError, match="needs a C\\+\\+ compiler, and there is no 'no-such-compiler'"):
        sw.compile_package(copied)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *a, **k: 1 / 0)
    with pytest.raises(sw.PackageError, match=r"torch cannot compile graph-0.pt2: division by zero"):
        sw.compile_package(copied)

    def refuse(*args, **kwargs):
        raise RuntimeError(
            "C++ compile error\n\nOutput:\nx.cpp:7:3: error: redeclaration of 'buf1'\nx.cpp:9: error: no\n"
        )

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    with pytest.raises(
        sw.PackageError, match=r"graph-0.pt2: C\+\+ compile error: redeclaration of 'buf1'\n  try: the b"
    ):
        sw.compile_package(copied)
    assert sorted(copied.iterdir()) == before


def test_this_machine_fits_itself(monkeypatch):
    here = this_machine("cpu")
    assert misfits(here) == []
    monkeypatch.setattr(native, "_instructions", lambda: [*here["instructions"].split(), "avx9"])
    assert misfits(here) == []


def test_a_number_that_may_change_is_refused(tmp_path):
    class Counted(nn.Module):
        def forward(self, x):
            return x + 1, x.shape[0]

    n = torch.export.Dim("n", min=2, max=64)
    exported = torch.export.export(Counted(), (torch.randn(4, 3),), dynamic_shapes=({0: n},))
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    with pytest.raises(sw.PackageError, match="is a number that may change"):
        sw.compile_package(tmp_path / "p")
    assert not (tmp_path / "p" / "compiled").exists()


def test_the_manifest_is_one(package):
    assert msgspec.json.decode((package / "compiled" / "compiled.json").read_bytes(), type=CompiledManifest)
