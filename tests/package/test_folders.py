"""A package holds plain files of its own: links, pipes and names that lead elsewhere are refused and never copied."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch

import shardwright as sw
from shardwright.package.manifest import MANIFEST_NAME, is_file_name
from shardwright.package.save import save
from tests.support.models import MLPs, redraw

X = torch.randn(4, 12)
GRAPH, WEIGHTS = "graph-0.pt2", "weights-00000-of-00001.safetensors"


def sharded():
    return sw.shard(torch.export.export(redraw(MLPs()), (X,)), mesh=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("folders") / "p"
    save(sharded(), path, extras={"notes.txt": b"a note"})
    return path


@pytest.fixture
def package(made, tmp_path):
    shutil.copytree(made, tmp_path / "p")
    return tmp_path / "p"


def a_link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def a_link_to_nothing(path):
    path.unlink()
    path.symlink_to("nothing")


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_socket(path):
    path.unlink()
    # A socket's name is short, a test folder's may not be.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS = {"a link": a_link, "a link ": a_link_to_nothing, "a pipe": a_pipe, "a folder": a_folder, "a socket": a_socket}


@pytest.mark.parametrize(("kind", "put"), KINDS.items())
@pytest.mark.parametrize("name", [MANIFEST_NAME, GRAPH, WEIGHTS, "original.pt2", "notes.txt"])
def test_what_is_no_file_is_neither_read_nor_copied(package, tmp_path, kind, put, name):
    put(package / name)
    used = {MANIFEST_NAME: "lgr", GRAPH: "l", WEIGHTS: "lgr", "original.pt2": "r", "notes.txt": "r"}[name]
    calls = {
        "l": lambda: sw.load(package),
        "g": lambda: sw.gather(package, tmp_path / "state"),
        "r": lambda: sw.reshard(package, tmp_path / "q", mesh=2),
    }
    for one in used:
        with pytest.raises(sw.PackageError, match=f"is {kind.strip()}, not a file"):
            calls[one]()
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "q").exists()


def test_a_package_reached_by_a_link_is_read(package, tmp_path):
    (tmp_path / "latest").symlink_to(package)
    assert torch.equal(sw.load(tmp_path / "latest")(X), sw.load(package)(X))


def renamed(package, old, new):
    told = json.loads((package / MANIFEST_NAME).read_text())
    text = json.dumps(told).replace(json.dumps(old), json.dumps(new))
    (package / MANIFEST_NAME).write_text(text)


NAMES = [
    "../p/notes.txt",
    "a/b",
    "/etc/hostname",
    "",
    ".",
    "..",
    ".hidden",
    "a\nb",
    "a\0b",
    "a\\b",
    MANIFEST_NAME,
    "é" * 101,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_file_of_a_package_has(package, tmp_path, name):
    renamed(package, "notes.txt", name)
    for call in (lambda: sw.load(package), lambda: sw.reshard(package, tmp_path / "q", mesh=2)):
        with pytest.raises(
            sw.PackageError, match=r"names files outside the package, or under names|lists a file twice"
        ):
            call()
    assert not is_file_name(name)
    with pytest.raises(sw.PackageError, match="names files outside"):
        save(sharded(), tmp_path / "r", extras={name: b""})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_outputs_are_not_written_through_links(package, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / ".state.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(sw.PackageError, match="exists already"):
        sw.gather(package, tmp_path / "link")
    with pytest.raises(sw.PackageError, match="exists already"):
        sw.reshard(package, tmp_path / "link", mesh=2)
    sw.gather(package, tmp_path / "state")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_what_the_manifest_does_not_list_is_not_copied(package, tmp_path):
    (package / "more.txt").write_text("more")
    sw.reshard(package, tmp_path / "q", mesh=2)
    assert (tmp_path / "q" / "notes.txt").read_bytes() == b"a note"
    assert not (tmp_path / "q" / "more.txt").exists()


def test_a_manifest_that_names_another_tensor(package, tmp_path):
    name = json.loads((package / MANIFEST_NAME).read_text())["tensors"][0]["name"]
    renamed(package, name, "another")
    with pytest.raises(sw.PackageError, match="'another' is not there"):
        sw.gather(package, tmp_path / "state")
    with pytest.raises(sw.PackageError, match=f"'{name}'.*the manifest does not name it"):
        sw.reshard(package, tmp_path / "q", mesh=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_an_output_that_cannot_be_written(package, tmp_path, monkeypatch):
    """A disk that can only be read refuses to remove what is not there as well."""

    def refuse(path, *args, **kwargs):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(sw.PackageError, match=r"cannot write .*Read-only file system.*\n  nothing was left behind"):
        sw.gather(package, tmp_path / "state")
