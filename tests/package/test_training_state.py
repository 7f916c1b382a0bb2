"""What of an optimiser's state stands in the manifest: numbers exactly, and nothing that contradicts the rest."""

import math
from pathlib import Path

import msgspec
import pytest
import torch

from shardwright.errors import PackageError
from shardwright.package.manifest import TensorEntry
from shardwright.package.training_state import (
    GroupEntry,
    MomentEntry,
    TrainingEntry,
    check_training,
    from_json,
    to_json,
)

EXACT = [None, True, 3, 1e-3, 0.1 + 0.2, math.inf, -math.inf, "plain", [1, 2.5], (0.9, 0.999), ((), [None])]


@pytest.mark.parametrize("value", EXACT)
def test_numbers_come_back_to_the_bit(value):
    found = from_json(msgspec.json.decode(msgspec.json.encode(to_json(value))))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value", [torch.tensor(7.0), torch.tensor(0.1, dtype=torch.bfloat16), torch.tensor(3), torch.tensor(math.nan)]
)
def test_tensors_without_dims_come_back_as_such(value):
    found = from_json(msgspec.json.decode(msgspec.json.encode(to_json(value))))
    assert torch.equal(found.nan_to_num(5), value.nan_to_num(5))
    assert found.dtype == value.dtype


@pytest.mark.parametrize("value", [torch.ones(1), torch.tensor(1j), {"a": 1}, object(), [lambda: 1]])
def test_nothing_else_is_written(value):
    with pytest.raises(ValueError, match="is not kept"):
        to_json(value)


@pytest.mark.parametrize(
    "written", [{"float": "1"}, {"tensor": "x", "dtype": "float32"}, {"tensor": 1, "dtype": "save"}, {"a": 1}]
)
def test_nothing_else_is_read(written):
    with pytest.raises(PackageError, match="no number that a package keeps"):
        from_json(written)


ENTRY = TrainingEntry(
    ["optimizer-0"], [MomentEntry("w", "sum", "float32")], {"w": {"step": 1}}, [GroupEntry(["w"], {"lr": 0.1})]
)
TENSORS = {
    "w": TensorEntry("w", "parameter", [4, 6], "float32", {}),
    "t": TensorEntry("t", "parameter", [4, 6], "float32", {}, alias_of="w"),
    "b": TensorEntry("b", "buffer", [4, 6], "float32", {}),
}


@pytest.mark.parametrize(
    "changed",
    [
        {"files": []},
        {"files": ["elsewhere"]},
        {"moments": [MomentEntry("gone", "sum", "float32")]},
        {"moments": [MomentEntry("w", "sum", "save")]},
        {"moments": [MomentEntry("w", "sum", "float32")] * 2},
        {"numbers": {"b": {"step": 1}}},
        {"groups": [GroupEntry(["w", "t"], {})]},
        {"groups": [GroupEntry(["w"], {}), GroupEntry(["w"], {})]},
        {"groups": []},
    ],
)
def test_what_contradicts_the_manifest_is_refused(changed):
    check_training(ENTRY, TENSORS, {"optimizer-0": 200}, 1, Path("m"))
    with pytest.raises(PackageError, match=r"^m"):
        check_training(msgspec.structs.replace(ENTRY, **changed), TENSORS, {"optimizer-0": 200}, 1, Path("m"))


def test_a_tensor_has_room_in_its_files():
    with pytest.raises(PackageError, match="is not in its files"):
        check_training(ENTRY, TENSORS, {"optimizer-0": 90}, 1, Path("m"))
