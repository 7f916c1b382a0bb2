"""A program is called as the original's forward was: by position or by name, with defaults left out."""

import functools
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils import _pytree as pytree

import shardwright as sw
from shardwright.program.read import read
from shardwright.program.signature import output_names, signature_of
from shardwright.run.tensor_files import example_inputs
from shardwright.run.worker import run_package
from tests.support.ranks import on_ranks

PLAN = {"up": "colwise", "down": "rowwise"}
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


class Flags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x, mask=None, double=True, scale=2, how="relu", options=None):
        h = torch.relu(self.up(x)) if how == "relu" else self.up(x).tanh()
        h = h if mask is None else h * mask[..., None]
        h = h if options is None else h + options["shift"][0]
        return self.down(h * scale if double else h)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Flags().eval().requires_grad_(False)


def sharded(model, args, kwargs=None, **options):
    exported = torch.export.export(model, args, kwargs or {})
    return exported, sw.shard(exported, mesh=2, plan=PLAN, **options)


FORMS: dict[str, Any] = {
    "positional": ((X, None, True, 2), {}),
    "named": ((), {"scale": 2, "double": True, "x": X, "mask": None}),
    "mixed": ((X,), {"double": True}),
    "bare": ((X,), {}),
}


@pytest.fixture(scope="module")
def in_form(model):
    """The model exported and sharded, called in one of the `FORMS`."""
    return functools.cache(lambda form: sharded(model, *FORMS[form]))


MASK = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((X, MASK, True, 2), {}, r"'mask' was the constant None at export.*got a tensor of shape \(2, 5\)"),
        ((X, None, False, 2), {}, "'double' was the constant True at export.*got False"),
        ((X, None, 1, 2), {}, "'double' was the constant True at export.*got 1"),
        ((X, None, True, 3), {}, "'scale' was the constant 2 at export.*got 3"),
        ((X, None, True, 2.0), {}, "'scale' was the constant 2 at export.*got 2.0"),
        ((X, None, True, torch.tensor(2)), {}, "'scale' was the constant 2 at export.*got a tensor"),
        ((X, None, True, True), {}, "'scale' was the constant 2 at export.*got True"),
        ((X, (None,), True, 2), {}, "'mask' was the constant None at export.*got tuple"),
        ((X, None, True, 2, "tanh"), {}, "'how' was left out at export.*default, 'relu'; got 'tanh'"),
        (
            (X,),
            {"options": {"shift": [X]}},
            "'options' was left out at export.*default, None; got a value of type dict",
        ),
        ((X,), {"double": False, "scale": 3}, "(?s)2 problems.*'double'.*'scale'"),
        ((), {"mask": None}, "'x' is missing"),
        ((X,), {"x": X}, "'x' is given twice"),
        ((X,), {"masks": None}, "(?s)no input 'masks' by name.*'mask'"),
        ((X, None, True, 2, "relu", None, 7), {}, "takes 6 inputs by position .*got 7"),
    ],
)
def test_other_constants_are_refused_by_every_caller(in_form, args, kwargs, says):
    exported, program = in_form("positional")
    with pytest.raises(sw.InputError, match=says):
        sw.verify(program, exported, args, kwargs)
    with pytest.raises(sw.InputError, match=says):
        program.simulate(*args, **kwargs)
    with pytest.raises(sw.InputError, match=says):
        program.simulation()(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((X, None, True, 2), {}),
        ((X,), {}),
        ((), {"x": X}),
        ((), {"scale": 2, "x": X}),
        ((X, None), {"double": True, "how": "relu"}),
        ((X, None, True, 2, "relu", None), {}),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_by_name_or_by_position_with_defaults_left_out(model, in_form, form, args, kwargs):
    exported, program = in_form(form)
    wanted = model(*args, **kwargs)
    for got in program.simulate(*args, **kwargs):
        torch.testing.assert_close(got, wanted)
    assert sw.verify(program, exported, args, kwargs).ok


def test_a_default_that_is_not_what_was_exported_must_be_given(model):
    exported, program = sharded(model, (X, None, False))
    with pytest.raises(
        sw.InputError, match="'double' is missing; it was the constant False at export\n  try: double=F"
    ):
        program.simulate(X)
    assert sw.verify(program, exported, (X,), {"double": False}).ok


class Swapped(nn.Module):
    def forward(self, a, /, b, *rest, c=1.5, **more):
        return a + 2 * b + 3 * rest[0] + c * more["d"]


def test_every_kind_of_parameter():
    a, b, r, d = torch.randn(4, 3)
    exported = torch.export.export(Swapped(), (a, b, r), {"d": d, "c": 1.5})
    program = sw.shard(exported, mesh=2)
    wanted = Swapped()(a, b, r, d=d)
    for got in (program.simulate(a, b, r, d=d), program.simulate(a, b, r, c=1.5, d=d)):
        torch.testing.assert_close(got[0], wanted)
    for args, kwargs, says in [
        ((a, b, r, d), {}, "takes 3 inputs by position"),
        ((b, r), {"a": a, "d": d}, "no input 'a' by name"),
        ((a, b), {"rest_0": r, "d": d}, "no input 'rest_0' by name"),
        ((a, b, r), {"d": d, "e": d}, "no input 'e' by name"),
    ]:
        with pytest.raises(sw.InputError, match=says):
            program.simulate(*args, **kwargs)


def test_without_the_class_order_and_defaults_are_not_guessed(model):
    def make():
        class Gone(Flags):
            pass

        torch.manual_seed(0)
        return torch.export.export(Gone(), (), {"scale": 2, "x": X})

    exported = make()
    for node in exported.graph.nodes:
        if "nn_module_stack" in node.meta:
            node.meta["nn_module_stack"] = {
                key: (path, "no.such.Class" if path == "" else kind)
                for key, (path, kind) in node.meta["nn_module_stack"].items()
            }
    program = read(exported)
    assert [one.how for one in signature_of(program.source)] == ["name", "name"]
    found = sw.shard(exported, mesh=2, plan=PLAN)
    assert found.simulate(x=X, scale=2)[0].shape == X.shape
    with pytest.raises(sw.InputError, match=r"(?s)takes 0 inputs by position, got 1.*give by name: scale, x"):
        found.simulate(X)
    with pytest.raises(sw.InputError, match="'scale' is missing; it was the constant 2 at export"):
        found.simulate(x=X)
    with pytest.raises(sw.InputError, match="no input 'double' by name"):
        found.simulate(x=X, scale=2, double=True)


def test_two_classes_of_one_name_are_told_apart_by_what_was_exported():
    def make(flag):
        if flag:

            class Model(nn.Module):
                def forward(self, x, y):
                    return x - 2 * y

        else:

            class Model(nn.Module):
                def forward(self, y, x):
                    return x - 2 * y

        return Model()

    kept = [make(False), make(True)]
    x, y = torch.randn(2, 3)
    positional = sw.shard(torch.export.export(kept[0], (y, x)), mesh=2)
    torch.testing.assert_close(positional.simulate(y, x=x)[0], x - 2 * y)
    named = sw.shard(torch.export.export(kept[1], (), {"y": y, "x": x}), mesh=2)
    with pytest.raises(sw.InputError, match="by position, got 2"):
        named.simulate(x, y)


def on_rank(rank, folder, calls):
    found = {}
    for backend in ("eager", "aoti"):
        module = sw.load(folder, backend=backend)
        for name, (args, kwargs) in calls.items():
            try:
                found[backend, name] = module(*args, **kwargs)
            except sw.InputError as error:
                found[backend, name] = str(error)
    return found


@pytest.mark.ranks
def test_packages_are_called_as_the_original_was(model, tmp_path):
    _, program = sharded(model, (), {"scale": 2, "x": X, "mask": None})
    program.save(tmp_path / "p")
    sw.reshard(tmp_path / "p", tmp_path / "again", mesh=2)
    sw.compile_package(tmp_path / "again")
    calls = {
        "by position": ((X,), {}),
        "by name": ((), {"x": X, "scale": 2}),
        "defaults": ((X, None, True, 2), {}),
        "mask": ((X, MASK), {}),
        "double": ((X,), {"double": False}),
        "scale": ((X,), {"scale": 3}),
    }
    for found in on_ranks(2, on_rank, str(tmp_path / "again"), calls):
        assert len(found) == 12
        for (_, name), got in found.items():
            if isinstance(got, str):
                assert f"input {name!r}" in got
                assert "at export" in got
            else:
                assert name in ("by position", "by name", "defaults")
                torch.testing.assert_close(got, model(X))


def test_files_hold_what_is_no_constant(model, tmp_path):
    exported = torch.export.export(model, (X, None, True), {"scale": 2})
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    save_file({"x": X}, tmp_path / "right.safetensors")
    save_file({"x": X, "scale": torch.tensor(2)}, tmp_path / "wrong.safetensors")
    out = str(tmp_path / "out.safetensors")
    assert run_package(str(tmp_path / "p"), str(tmp_path / "right.safetensors"), out) == [("0", "(2, 5, 8)", "float32")]
    torch.testing.assert_close(load_file(out)["0"], model(X))
    args, kwargs = example_inputs(exported, tmp_path / "right.safetensors")
    assert (args[1:], kwargs) == ((None, True), {"scale": 2})
    says = "holds 'scale', which was the constant 2 at export"
    with pytest.raises(sw.InputError, match=says):
        run_package(str(tmp_path / "p"), str(tmp_path / "wrong.safetensors"), out)
    with pytest.raises(sw.InputError, match=says):
        example_inputs(exported, tmp_path / "wrong.safetensors")


def test_a_package_that_does_not_say_how_it_is_called_is_read(model, tmp_path):
    exported = torch.export.export(model, (X, None, True, 2))
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    path = tmp_path / "p" / "shardwright.json"
    raw = msgspec.json.decode(path.read_bytes())
    del raw["parameters"]
    for entry in raw["inputs"]:
        entry.pop("constant", None)
    path.write_bytes(msgspec.json.encode(raw))
    module = sw.load(tmp_path / "p")
    torch.testing.assert_close(module(x=X, mask=None, double=True, scale=2), model(X))
    with pytest.raises(sw.InputError, match="'scale' was the constant 2"):
        module(X, None, True, 3)


def test_a_manifest_that_contradicts_its_graph(model, tmp_path):
    exported = torch.export.export(model, (X, None, True, 2))
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    path = tmp_path / "p" / "shardwright.json"
    raw = msgspec.json.decode(path.read_bytes())
    for change in (lambda p: p.pop(0), lambda p: p[0].update(optional=True), lambda p: p.append(dict(p[0]))):
        changed = msgspec.json.decode(msgspec.json.encode(raw))
        change(changed["parameters"])
        path.write_bytes(msgspec.json.encode(changed))
        with pytest.raises(sw.PackageError, match="contradicts itself"):
            sw.load(tmp_path / "p")


class Output(dict):
    """What a model returns, of a class that tells PyTorch how to flatten it, but not by which keys."""


pytree.register_pytree_node(
    Output, lambda one: (list(one.values()), list(one)), lambda values, keys: Output(zip(keys, values, strict=True))
)


class Returning(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        h = torch.relu(self.up(x))
        return Output(sample=self.down(h), parts=(h, x * 2))


def test_outputs_of_a_class_without_keys_are_named_by_what_it_keeps():
    exported = torch.export.export(Returning().eval(), (X,))
    assert list(output_names(read(exported))) == ["sample", "parts.0", "parts.1"]
    result = sw.shard(exported, mesh=2, outputs={"sample": sw.Replicate()})
    assert sw.verify(result, exported, (X,)).ok
