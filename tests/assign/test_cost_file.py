"""Cost models on disk: read as they were written, and everything wrong with a file said at once."""

import json
import os

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.assign.cost_file import MARK, write_cost_model

MODEL = sw.CostModel(latency_us=7, link_bytes_per_us=1e3, call_us=0, name="a machine")


@pytest.fixture
def good(tmp_path):
    write_cost_model(tmp_path / "cost.json", MODEL, {"ranks": 2})
    return json.loads((tmp_path / "cost.json").read_text())


@pytest.fixture
def refused(tmp_path):
    def check(text):
        path = tmp_path / "odd.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(sw.ShardwrightError) as caught:
            sw.cost_model(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return check


def test_a_file_is_read_as_it_was_written(tmp_path):
    write_cost_model(tmp_path / "cost.json", MODEL, {"ranks": 2})
    for path in (tmp_path / "cost.json", str(tmp_path / "cost.json")):
        assert sw.cost_model(path) == MODEL and sw.cost_model(path).name == "a machine"
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(2, 4),))
    assert sw.shard(program, mesh=2, cost=tmp_path / "cost.json").cost == MODEL


def test_everything_wrong_is_said_at_once(good, refused):
    good["constants"] |= {"latency_us": -1, "flops_per_us": True, "latensy_us": 3}
    del good["constants"]["memory_bytes_per_us"]
    said = refused(json.dumps({**good, "name": "", "nmae": "x"}))
    assert "(6 problems)" in said
    for part in (
        "'latency_us' must be a finite number above 0, got -1",
        "'flops_per_us' must be a finite number above 0, got True",
        "'latensy_us' is not a field of a cost model\n  try: 'latency_us'",
        "'memory_bytes_per_us' is missing",
        "'name' must be a word for people, got ''",
        "'nmae' is not a field of a cost model\n  try: 'name'",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a cost model"),
        ("[]", f"it has no '{MARK}'"),
        ('{"format_version": 3}', f"it has no '{MARK}'"),
        ("{" * 5000, "is not a cost model"),
        ("[" * 100_000, "is not a cost model"),
        (b"\xff\xfe", "is not a cost model"),
        (f'{{"{MARK}": 2}}', "version 2; this Shardwright reads version 1"),
        (f'{{"{MARK}": true}}', "version True"),
        (f'{{"{MARK}": 1, "{MARK}": 1}}', "is given twice"),
        (f'{{"{MARK}": 1, "name": "x", "constants": []}}', "'constants' must be names with numbers"),
        (b" " * (1 << 21), "it has 2,097,152 bytes"),
    ],
)
def test_what_is_no_cost_model_is_refused(refused, text, says):
    assert says in refused(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1" + "0" * 400, "0", '"7"', "null"])
def test_numbers_that_say_nothing_are_refused(good, refused, number):
    text = json.dumps(good).replace('"latency_us": 7', f'"latency_us": {number}')
    assert "'latency_us' must be a finite number above 0" in refused(text)


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for name, says in (("pipe.json", "is not a regular file"), ("", "is a folder")):
        with pytest.raises(sw.ShardwrightError, match=says):
            sw.cost_model(tmp_path / name)
