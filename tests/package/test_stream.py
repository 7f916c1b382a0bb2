"""Files written tensor by tensor are files the safetensors library reads."""

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save

import shardwright as sw
from shardwright.layout.dtypes import DTYPES
from shardwright.package.stream import TensorSlot, write_tensors

TENSORS = {
    "matrix": torch.randn(3, 4),
    "half": torch.randn(5).to(torch.bfloat16),
    "number": torch.tensor(7),
    "empty": torch.empty(0, 4),
    "mask": torch.tensor([True, False]),
    "strided": torch.randn(4, 3, dtype=torch.float64).t(),
    "eight": torch.randn(3).to(torch.float8_e4m3fn),
}


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def slots(tensors):
    return [TensorSlot(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]


def test_the_library_reads_what_is_written(tmp_path):
    seen = []
    entry = write_tensors(tmp_path / "w", slots(TENSORS), TENSORS.__getitem__, seen.append)
    found = load_file(tmp_path / "w")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.float())
    data = (tmp_path / "w").read_bytes()
    assert (entry.num_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert sum(seen) == sum(slot.num_bytes for slot in slots(TENSORS))


def test_what_vectors_divide_begins_where_they_do(tmp_path):
    """However odd the tensors beside it are: a file is mapped, and memory lies as it does."""
    sizes = {"a": (3,), "b": (64,), "c": (5, 16), "d": (2, 32), "e": (1,), "f": (128,)}
    tensors = {name: torch.zeros(shape, dtype=torch.int8) for name, shape in sizes.items()}
    tensors |= {"g": torch.zeros(3), "h": torch.zeros(16, dtype=torch.bfloat16), "i": torch.zeros(2, 8)}
    write_tensors(tmp_path / "w", slots(tensors), tensors.__getitem__)
    data = (tmp_path / "w").read_bytes()
    size, header = int.from_bytes(data[:8], "little"), header_of(data)
    for name, tensor in tensors.items():
        start = 8 + size + header[name]["data_offsets"][0]
        assert start % math.gcd(tensor.nbytes, 64) == 0, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_named_as_the_library_names_it(tmp_path, dtype):
    tensor = torch.zeros(2, dtype=dtype)
    write_tensors(tmp_path / "w", slots({"t": tensor}), lambda name: tensor)
    assert load_file(tmp_path / "w")["t"].dtype == dtype
    ours, theirs = (tmp_path / "w").read_bytes(), save({"t": tensor})
    assert header_of(ours) == header_of(theirs)


def test_a_dtype_that_files_cannot_hold(tmp_path):
    tensor = torch.zeros(2, dtype=torch.complex128)
    with pytest.raises(sw.PackageError, match=r"'t' has dtype torch.complex128"):
        write_tensors(tmp_path / "w", slots({"t": tensor}), lambda name: tensor)
