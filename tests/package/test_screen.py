"""Graph files that hold what no sharded graph holds are refused before torch reads them."""

import contextlib
import io
import json
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shardwright as sw
from shardwright.package.load import read_graph
from shardwright.package.screen import is_guard, is_size, screen_graph


class Dynamic(torch.nn.Module):
    """Symbolic sizes of several kinds, and a guard between two inputs."""

    def forward(self, x, y):
        n = x.shape[0]
        return x.reshape(n // 2, 2, 3).sum(1), torch.cat([x, y]).view(-1)[: n * 2 + 1], x.shape[0] * 2 + 1


@pytest.fixture(scope="module")
def graph():
    n = torch.export.Dim("n", min=2, max=64)
    inputs = (torch.randn(8, 3), torch.randn(8, 3))
    exported = torch.export.export(Dynamic(), inputs, dynamic_shapes=({0: 2 * n}, {0: 2 * n}))
    exported._example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    return buffer.getvalue()


def changed(data, change):
    """The archive with its program changed by ``change(text)``."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if "/models/" in info.filename:
                content = change(content.decode()).encode()
            new.writestr(info.filename, content)
    return out.getvalue()


def edited(data, edit):
    def change(text):
        model = json.loads(text)
        edit(model)
        return json.dumps(model)

    return changed(data, change)


def test_an_honest_graph_passes_and_loads(graph, tmp_path):
    screen_graph(graph, "graph")
    (tmp_path / "graph.pt2").write_bytes(graph)
    x = torch.randn(12, 3)
    got = read_graph(tmp_path / "graph.pt2").module()(x, x)
    torch.testing.assert_close(got[0], x.reshape(6, 2, 3).sum(1))


def first_node(model):
    return model["graph_module"]["graph"]["nodes"][0]


def set_target(target):
    return lambda model: first_node(model).update(target=target)


def set_size(text):
    def edit(model):
        for value in model["graph_module"]["graph"]["tensor_values"].values():
            value["sizes"] = [{"as_expr": {"expr_str": text, "hint": {"as_int": 4}}}]

    return edit


ODD = {
    "an operator of another module": (set_target("torch.invented.operator"), "the operator 'torch.invented"),
    "no operator": (set_target("invented"), "the operator 'invented"),
    "a part of an operator": (set_target("torch.ops.aten.add.Tensor.part"), "the operator"),
    "unknown arithmetic": (set_target("_operator.invented"), "the operator"),
    "a size of an unknown function": (set_size("Invented(Integer(3))"), "the size 'Invented"),
    "a size with an attribute": (set_size("s0.part"), "the size"),
    "a size that is no expression": (set_size("s0 +"), "the size"),
    "a size of a huge number": (set_size("9" * 40), "the size"),
    "a guard of an unknown function": (lambda model: model.update(guards_code=["invented(3)"]), "an input guard"),
}


@pytest.mark.parametrize(("edit", "says"), ODD.values(), ids=ODD)
def test_what_no_sharded_graph_holds_is_refused(graph, edit, says):
    with pytest.raises(sw.PackageError, match=says):
        screen_graph(edited(graph, edit), "graph")


def test_entries_of_unknown_kinds_are_refused(graph):
    for name in ("archive/data/weights/weight_0.pt", "archive/data/aotinductor/model/x.so"):
        out = io.BytesIO(graph)
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr(name, b"data")
        with pytest.raises(sw.PackageError, match="never opened"):
            screen_graph(out.getvalue(), "graph")


def test_an_archive_that_unpacks_to_too_much(graph):
    out = io.BytesIO(graph)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"x{number}", "w", force_zip64=True) as file:
                for _ in range(70):
                    file.write(bytes(2**20))
    # 210 MB of zeros pass; the same claim of 3 GiB does not.
    screen_graph(out.getvalue(), "graph")
    big = bytearray(out.getvalue())
    start = big.rfind(b"PK\x01\x02")
    big[start + 24 : start + 28] = (2**32 - 2).to_bytes(4, "little")
    with pytest.raises(sw.PackageError, match="would unpack to"):
        screen_graph(bytes(big), "graph")


SIZES = ["Mul(Integer(40), Symbol('s70', positive=True, integer=True))", "s0//2", "Max(1, s0 - 3)", "int_oo", "4", "u0"]


@pytest.mark.parametrize("text", SIZES)
def test_honest_sizes(text):
    assert is_size(text)


def test_honest_guards():
    assert is_guard("L['input_ids'].size()[1] == L['positions'].size()[0]")
    assert is_guard("Eq(L['x'].size()[0], 3)") is False


@given(st.text(alphabet="s0123456789abcdefxyz_.()[]'\"+-*/,=<> \\", max_size=40))
@settings(max_examples=500, deadline=None)
def test_no_size_that_passes_holds_an_attribute_or_a_subscript(text):
    if is_size(text):
        assert "__" not in text
        assert "[" not in text
        assert "lambda" not in text


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_archives_raise_nothing_else(graph, data):
    damaged = bytearray(graph)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        with contextlib.suppress(sw.PackageError):
            screen_graph(candidate, "graph")
