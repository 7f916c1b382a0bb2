"""Packages and real ranks: what is written is what runs, and what is damaged is refused by name."""

import json
import shutil

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.package.manifest import read_manifest
from shardwright.run.launch import launch
from tests.support.models import MEGATRON, Cache, Decoder, LinearNorm, redraw, relative_error
from tests.support.ranks import on_ranks

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))


def sharded_decoder(mesh=2, plan=None, **model):
    exported = torch.export.export(redraw(Decoder(**model)), (IDS,))
    return sw.shard(exported, mesh=mesh, plan=plan or {**MEGATRON, "embed": "embedding_rowwise"})


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("packages") / "decoder"
    sharded_decoder(tied=True).save(path)
    return path


def run_loaded(path, *inputs):
    torch.set_num_threads(1)
    with torch.no_grad():
        module = sw.load(path)
        return module.rank, module(*inputs)


def run_on(rank, path, *inputs):
    own, got = run_loaded(path, *inputs)
    assert own == rank
    return got


@pytest.mark.ranks
def test_a_package_runs_on_real_ranks(package):
    wanted = redraw(Decoder(tied=True))(IDS)
    for rank, (own, got) in launch(2, run_loaded, str(package), IDS).items():
        assert own == rank
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.ranks
def test_two_axes_on_real_ranks(tmp_path):
    sharded_decoder(mesh={"dp": 2, "tp": 2}, plan={"dp": MEGATRON, "tp": MEGATRON}).save(tmp_path / "p")
    wanted = redraw(Decoder())(IDS)
    for got in on_ranks(4, run_on, str(tmp_path / "p"), IDS):
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.ranks
def test_scattered_sums_on_real_ranks(tmp_path):
    plan = {**MEGATRON, "layers.*.norm[12]": "sequence_parallel", "norm": "sequence_parallel"}
    sharded = sharded_decoder(plan=plan)
    assert {c.kind for c in sharded.collectives} == {"reduce_scatter", "all_gather"}
    sharded.save(tmp_path / "p")
    wanted = redraw(Decoder())(IDS)
    for got in on_ranks(2, run_on, str(tmp_path / "p"), IDS):
        assert relative_error(got, wanted) < 1e-5


def run_cache_three_times(rank, path, x):
    with torch.no_grad():
        module = sw.load(path)
        return [module(x, torch.tensor([step])) for step in range(3)]


@pytest.mark.ranks
def test_buffers_keep_their_values_on_real_ranks(tmp_path):
    x = torch.randn(2, 1, 16)
    exported = torch.export.export(redraw(Cache()), (x, torch.tensor([0])))
    sw.shard(exported, mesh=2).save(tmp_path / "p")
    model = redraw(Cache())
    with torch.no_grad():
        wanted = [model(x, torch.tensor([step])) for step in range(3)]
    for found in on_ranks(2, run_cache_three_times, str(tmp_path / "p"), x):
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)


def compiled(rank, package, x):
    with torch.no_grad():
        module = sw.load(package).module
        return torch.compile(module, backend="aot_eager")(x)


@pytest.mark.ranks
def test_torch_compile_runs_a_rank(package):
    wanted = redraw(Decoder(tied=True))(IDS)
    for got in on_ranks(2, compiled, str(package), IDS):
        assert relative_error(got, wanted) < 1e-5


def test_ranks_with_equal_graphs_share_one(package):
    manifest = read_manifest(package)
    assert manifest.graphs == ["graph-0.pt2"] * 2
    assert {entry.name for entry in manifest.files} == {
        "graph-0.pt2",
        "original.pt2",
        "weights-00000-of-00002.safetensors",
        "weights-00001-of-00002.safetensors",
    }
    assert manifest.mesh == {"tp": 2}
    assert [c.kind for c in manifest.collectives] == ["all_reduce"] * 5 + ["all_gather"]


def test_uneven_ranks_have_graphs_of_their_own(tmp_path):
    exported = torch.export.export(LinearNorm().eval(), (torch.randn(4, 3),))
    sw.shard(exported, mesh=4, plan={"fc": "colwise"}).save(tmp_path / "p")
    assert len(set(read_manifest(tmp_path / "p").graphs)) > 1


def test_a_tied_tensor_is_written_once(package):
    stored = load_file(package / "weights-00001-of-00002.safetensors")
    assert ("embed.weight" in stored) != ("lm_head.weight" in stored)


def test_loading_needs_as_many_ranks(package):
    with pytest.raises(sw.PackageError, match="for 2 ranks, but no process group is up"):
        sw.load(package)


@pytest.mark.ranks
def test_the_wrong_number_of_ranks(package):
    with pytest.raises(AssertionError, match=r"(?s)(rank \d:\n.*PackageError: the package is for 2 ranks.*){3}"):
        on_ranks(3, run_on, str(package), IDS)


@pytest.mark.ranks
def test_wrong_inputs_on_a_rank(package):
    with pytest.raises(sw.RunError, match=r"input 'ids' must have shape \(2, 8\), got \(1, 8\)"):
        launch(2, run_loaded, str(package), IDS[:1])


def die(path, victim):
    import os
    import signal

    sw.load(path)
    if dist.get_rank() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@pytest.mark.ranks
def test_a_rank_that_dies_ends_the_job(package):
    with pytest.raises(sw.RunError, match=r"rank 1 failed.*SIGKILL"):
        launch(2, die, str(package), 1)


@pytest.fixture
def damaged(package, tmp_path):
    shutil.copytree(package, tmp_path / "copy")
    return tmp_path / "copy"


def open_rank(path):
    from shardwright.run.load import load_rank

    return load_rank(path, 0)


def test_a_missing_file(damaged):
    (damaged / "graph-0.pt2").unlink()
    with pytest.raises(sw.PackageError, match=r"lacks graph-0.pt2"):
        open_rank(damaged)


def test_a_truncated_file(damaged):
    weights = damaged / "weights-00000-of-00002.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(sw.PackageError, match="truncated or altered"):
        open_rank(damaged)


def test_a_flipped_byte(damaged):
    weights = damaged / "weights-00000-of-00002.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(sw.PackageError, match="altered or damaged"):
        open_rank(damaged)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"mesh": {"tp": 3}}, "contradicts itself"),
        ({"graphs": ["../evil", "graph-0.pt2"]}, "contradicts itself"),
        ({"files": [{"name": "../x", "num_bytes": 1, "sha256": ""}]}, "contradicts itself|outside"),
        ({"tensors": 3}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_a_manifest_that_is_wrong(damaged, change, says):
    manifest = json.loads((damaged / "shardwright.json").read_text())
    (damaged / "shardwright.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(sw.PackageError, match=says):
        open_rank(damaged)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\x00\xff"])
def test_a_manifest_that_is_no_manifest(damaged, text):
    (damaged / "shardwright.json").write_text(text, encoding="latin-1")
    with pytest.raises(sw.PackageError, match="damaged"):
        open_rank(damaged)


def test_a_folder_that_is_no_package(tmp_path):
    with pytest.raises(sw.PackageError, match="no such folder"):
        open_rank(tmp_path / "nothing")
    with pytest.raises(sw.PackageError, match=r"no readable shardwright.json"):
        open_rank(tmp_path)


def test_entries_of_unknown_kinds_are_never_opened(damaged):
    import hashlib
    import zipfile

    graph = damaged / "graph-0.pt2"
    with zipfile.ZipFile(graph, "a") as archive:
        archive.writestr("graph/data/sample_inputs/other.pt", b"data")
    manifest = json.loads((damaged / "shardwright.json").read_text())
    for entry in manifest["files"]:
        if entry["name"] == "graph-0.pt2":
            entry.update(num_bytes=graph.stat().st_size, sha256=hashlib.sha256(graph.read_bytes()).hexdigest())
    (damaged / "shardwright.json").write_text(json.dumps(manifest))
    with pytest.raises(sw.PackageError, match="which no graph has"):
        open_rank(damaged)


def test_weights_of_another_program(damaged):
    import hashlib

    weights = damaged / "weights-00000-of-00002.safetensors"
    stored = load_file(weights)
    stored["norm.weight"] = torch.ones(3)
    save_file(stored, weights)
    manifest = json.loads((damaged / "shardwright.json").read_text())
    for entry in manifest["files"]:
        if entry["name"] == weights.name:
            entry.update(num_bytes=weights.stat().st_size, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    (damaged / "shardwright.json").write_text(json.dumps(manifest))
    with pytest.raises(sw.PackageError, match=r"'norm.weight' has shape \(3,\), the graph needs \(64,\)"):
        open_rank(damaged)


def test_an_existing_folder_is_not_touched(package):
    before = sorted(p.name for p in package.iterdir())
    with pytest.raises(sw.PackageError, match="exists already"):
        sharded_decoder().save(package)
    assert sorted(p.name for p in package.iterdir()) == before


def test_meta_weights_cannot_be_written(tmp_path):
    with torch.device("meta"):
        model = Decoder().eval()
    exported = torch.export.export(model, (IDS.to("meta"),))
    with pytest.raises(sw.PackageError, match="meta device"):
        sw.shard(exported, mesh=2).save(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("smaller", [False, True], ids=["large", "smaller"])
def test_freed_memory_goes_back_before_a_large_piece_is_read(package, tmp_path, monkeypatch, smaller):
    given_back = []
    pieces = [piece for path in package.glob("weights-*") for piece in load_file(path).values()]
    large = max(piece.nbytes for piece in pieces) + smaller
    monkeypatch.setattr("shardwright.package.save._LARGE_PIECE_BYTES", large)
    monkeypatch.setattr("shardwright.package.save.give_back", lambda: given_back.append(True))
    sw.reshard(package, tmp_path / "q", mesh=2)
    assert given_back == ([] if smaller else [True])
