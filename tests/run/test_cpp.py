"""Compiled libraries are kept: made once for what they depend on, by one process, and made anew where none are kept."""

import threading
from pathlib import Path

import pytest

from shardwright.errors import PackageError
from shardwright.run.aot import machine
from shardwright.run.cpp import library_place, make_once


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """The calls of a compiler that is quick, and caches in a folder of their own."""
    calls = []

    def compile_library(source, flags):
        calls.append(source.name)
        return b"library %d" % len(calls)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "compile_library", compile_library)
    return calls


def runner_bytes():
    """As in a process of its own."""
    return machine.runner_bytes.__wrapped__()


def test_the_runner_is_compiled_once_for_all_processes(compiled, monkeypatch):
    assert [runner_bytes(), runner_bytes()] == [b"library 1"] * 2
    monkeypatch.setenv("CXX", "another-compiler")
    assert [runner_bytes(), runner_bytes()] == [b"library 2"] * 2
    assert compiled == ["runner.cpp"] * 2


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_where_nothing_can_be_kept_the_runner_is_compiled_each_time(compiled, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [runner_bytes(), runner_bytes()] == [b"library 1", b"library 2"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert runner_bytes() == b"library 3"


def test_a_compiler_s_error_leaves_nothing_and_is_told(compiled, tmp_path, monkeypatch):
    def refuse(source, flags):
        raise PackageError("g++ cannot compile runner.cpp")

    monkeypatch.setattr(machine, "compile_library", refuse)
    with pytest.raises(PackageError, match=r"cannot compile runner\.cpp"):
        runner_bytes()
    assert [path.suffix for path in (tmp_path / "shardwright").iterdir()] == [".lock"]


def test_places_differ_by_every_fact(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = {library_place(*words) for words in [("a", "xy"), ("b", "xy"), ("a", "xz"), ("a", "x")]}
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path / "shardwright"}


def test_others_wait_for_who_makes_it(tmp_path):
    making, made, path = threading.Event(), [], tmp_path / "kept" / "library.so"

    def slowly():
        making.set()
        threading.Event().wait(0.2)
        made.append(1)
        return b"library"

    threads = [threading.Thread(target=make_once, args=(path, slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert making.wait(30)
    make_once(path, slowly)
    for thread in threads:
        thread.join()
    assert made == [1]
    assert path.read_bytes() == b"library"
