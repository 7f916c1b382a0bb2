"""Inputs that are no tensors are the constants of the export: named by their path, compared by type and value."""

import enum
import math
from dataclasses import dataclass

import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

import shardwright as sw
from shardwright.program.signature import format_constant

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


@dataclass
class Options:
    scale: float
    weight: torch.Tensor


pytree.register_dataclass(Options)


class Mode(str, enum.Enum):  # noqa: UP042 - its text is what it is spelled as
    FAST = "fast"


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Count(enum.IntEnum):
    ONE = 1
    TWO = 2


class Nested(nn.Module):
    def forward(self, x, options, one):
        y = x * options["scale"][0] + options["inner"]["bias"]
        return y * one.scale + one.weight


def test_nested_constants_are_named_by_their_path():
    x, weight = torch.randn(2, 3), torch.randn(3)
    options = {"scale": [2.0, None], "inner": {"bias": x, "name": "a"}}
    exported = torch.export.export(Nested(), (x, options, Options(3.0, weight)))
    program = sw.shard(exported, mesh=2)
    assert sw.verify(program, exported, (x, options, Options(3.0, weight))).ok
    other_order = {"inner": {"name": "a", "bias": x}, "scale": [2.0, None]}
    assert sw.verify(program, exported, (x, other_order), {"one": Options(3.0, weight)}).ok
    for given, one, says in [
        ({**options, "scale": [3.0, None]}, Options(3.0, weight), r"\"options\['scale'\]\[0\]\" was the constant 2.0"),
        ({**options, "scale": [2.0, x]}, Options(3.0, weight), r"\"options\['scale'\]\[1\]\" was the constant None"),
        ({**options, "inner": {"bias": x, "name": "b"}}, Options(3.0, weight), r"\"options\['inner'\]\['name'\]\" was"),
        (options, Options(4.0, weight), r"'one\.scale' was the constant 3.0 at export.*got 4.0"),
        ({**options, "scale": (2.0, None)}, Options(3.0, weight), "'options' has another structure than at export"),
        ({**options, "more": 1}, Options(3.0, weight), "'options' has another structure than at export"),
        (options, {"scale": 3.0, "weight": weight}, "'one' has another structure than at export"),
        (None, Options(3.0, weight), "'options' has another structure than at export"),
    ]:
        with pytest.raises(sw.InputError, match=says):
            sw.verify(program, exported, (x, given, one))


def test_constants_that_python_calls_equal_are_not():
    assert len({format_constant(value) for value in (1, 1.0, True, "1", None, "None", 0.0, -0.0, False, "", [1])}) == 11
    assert format_constant(math.nan) == format_constant(float("nan"))
    assert format_constant(Mode.FAST) == format_constant("fast")
    assert format_constant(torch.tensor(1)) == ""
    assert format_constant([1, object()]) == ""


class Chosen(nn.Module):
    def forward(self, x, choice, *, dtype=torch.float32):
        return (x * 2 if choice in (Colour.RED, Count.TWO, "fast") else x + 1).to(dtype)


@pytest.mark.parametrize(
    ("value", "same", "others"),
    [
        pytest.param(
            Colour.RED,
            Colour.RED,
            (Colour.BLUE, 1, None),
            marks=pytest.mark.skipif(
                torch.__version__.startswith("2.11"), reason="torch 2.11 exports members of text and numbers alone"
            ),
        ),
        (Count.TWO, 2, (Count.ONE, 2.0)),
        (Mode.FAST, "fast", ("slow",)),
    ],
)
def test_members_of_enumerations_are_constants(value, same, others, tmp_path):
    exported = torch.export.export(Chosen(), (X, value))
    program = sw.shard(exported, mesh=2)
    for given in (value, same):
        assert sw.verify(program, exported, (X, given)).ok
    for given in others:
        with pytest.raises(sw.InputError, match=r"'choice' was the constant \S+ at export.*; got"):
            program.simulate(X, given)
    one = sw.shard(exported, mesh=1)
    if value is Colour.RED:
        with pytest.raises(sw.PackageError, match=r"input 'choice' was Colour.RED at export.*but those of text"):
            one.save(tmp_path / "p")
        assert list(tmp_path.iterdir()) == []
        return
    one.save(tmp_path / "p")
    for module in (one.exported(0).module(), sw.load(tmp_path / "p")):
        for given in (value, same):
            torch.testing.assert_close(module(X, given), Chosen()(X, value))
        with pytest.raises(sw.InputError, match=r"'choice' was the constant \S+ at export.*; got"):
            module(X, others[0])


def test_a_dtype_that_was_left_out_is_compared():
    exported = torch.export.export(Chosen(), (X, "fast"))
    program = sw.shard(exported, mesh=2)
    assert sw.verify(program, exported, (X, "fast"), {"dtype": torch.float32}).ok
    with pytest.raises(sw.InputError, match=r"its default, torch.float32; got torch.float64"):
        program.simulate(X, "fast", dtype=torch.float64)


def test_a_module_of_a_rank_compares_constants_as_every_caller_does():
    x, options = torch.randn(2, 3), {"scale": [2.0, None], "inner": {"bias": torch.randn(2, 3), "name": "a"}}
    weight = torch.randn(3)
    exported = torch.export.export(Nested(), (x, options, Options(3.0, weight)))
    module = sw.shard(exported, mesh=1).exported(0).module()
    other_order = {"inner": dict(reversed(options["inner"].items())), "scale": [2.0, None]}
    wanted = exported.module()(x, options, Options(3.0, weight))
    torch.testing.assert_close(module(x, other_order, Options(3.0, weight)), wanted)
    for given, one, says in [
        ({**options, "scale": [2.0, x]}, Options(3.0, weight), r"\"options\['scale'\]\[1\]\" was the constant None"),
        (options, Options(4.0, weight), r"'one\.scale' was the constant 3.0 at export.*got 4.0"),
        ({**options, "scale": (2.0, None)}, Options(3.0, weight), "'options' has another structure than at export"),
    ]:
        with pytest.raises(sw.InputError, match=says):
            module(x, given, one)


@pytest.mark.parametrize("value", [math.inf, -0.0, 1e-300, "fast"])
def test_odd_constants_come_back(value, tmp_path):
    class Any(nn.Module):
        def forward(self, x, value):
            return x + value if isinstance(value, float) else x * 2

    x = torch.randn(2, 3)
    exported = torch.export.export(Any(), (x, value))
    program = sw.shard(exported, mesh=1)
    program.save(tmp_path / "p")
    module = sw.load(tmp_path / "p")
    for given in (value, Mode.FAST if value == "fast" else value):
        torch.testing.assert_close(module(x, given), Any()(x, value), equal_nan=True)
    with pytest.raises(sw.InputError, match="was the constant"):
        module(x, 0.0)


def test_numbers_that_may_change(tmp_path):
    class Take(nn.Module):
        def forward(self, x, n, times=2):
            return x[:n] * n * times

    x = torch.randn(9, 3)
    dynamic = {"x": None, "n": torch.export.Dim.DYNAMIC, "times": None}
    exported = torch.export.export(Take(), (x, 4, 2), dynamic_shapes=dynamic)
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    module = sw.load(tmp_path / "p")
    torch.testing.assert_close(module(x, n=6), Take()(x, 6))
    for wrong in (True, 4.0, None, torch.tensor(4)):
        with pytest.raises(sw.InputError, match="'n' must be an integer, got"):
            module(x, wrong)
