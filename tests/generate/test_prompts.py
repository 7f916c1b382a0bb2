"""Files of prompts: every line is one, and all that are none are named."""

import io
from types import SimpleNamespace

import pytest

import shardwright as sw
from shardwright.generate import prompts
from shardwright.generate.prompts import read_prompts


def read(folder, data, name="prompts.txt"):
    (folder / name).write_bytes(data)
    return read_prompts(str(folder / name))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"the cat\na dog\n", ["the cat", "a dog"]),
        (b"the cat\r\na dog", ["the cat", "a dog"]),
        (b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe\n", ["grüße"]),
        ("one\u2028line\x0bonly".encode(), ["one\u2028line\x0bonly"]),
        (b'{"prompt": "x"}\n', ['{"prompt": "x"}']),
        (b" spaces stay ", [" spaces stay "]),
    ],
)
def test_lines_are_prompts(tmp_path, data, found):
    assert read(tmp_path, data) == found


def test_json_lines(tmp_path):
    data = b'{"prompt": "two\\nlines", "id": 7}\n"gr\xc3\xbc\xc3\x9fe"\n'
    assert read(tmp_path, data, "prompts.jsonl") == ["two\nlines", "grüße"]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(prompts.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the cat\na dog\n")))
    assert read_prompts("-") == ["the cat", "a dog"]
    monkeypatch.setattr(prompts.sys, "stdin", None)
    with pytest.raises(sw.InputError, match="there is no standard input to read prompts from"):
        read_prompts("-")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", ["holds no prompts: it is empty"]),
        ("a.txt", b"\n \n", ["holds no prompts: it is empty"]),
        (
            "a.txt",
            b"x\n\n\xff\ny\n \n",
            ["3 problems", "a.txt, line 2", "byte 1 of the line is not UTF-8", "line 3", "line 5"],
        ),
        (
            "a.jsonl",
            b'{"prompt": 3}\n{"text": "x"}\n{"prompt\n"ok"\n[]\n"\xff"\n""\n"\\ud800"\n',
            [
                "7 problems",
                "line 1",
                'with a string under "prompt"',
                "line 2",
                "line 3",
                "not JSON",
                "line 5",
                "line 8",
            ],
        ),
    ],
)
def test_lines_that_are_no_prompts(tmp_path, name, data, words):
    with pytest.raises(sw.InputError) as raised:
        read(tmp_path, data, name)
    assert [one for one in words if one not in str(raised.value)] == []


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(sw.InputError, match="cannot read"):
        read_prompts(str(tmp_path / "none"))
    with pytest.raises(sw.InputError, match="is a folder"):
        read_prompts(str(tmp_path))
