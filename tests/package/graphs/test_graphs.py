"""Graph files give back every kind of program, and hold nothing that a sharded program does not need."""

import copy
import io
import json
import threading
import typing
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import sympy
import torch
from torch import nn
from torch._export.serde import serialize
from torch.utils import _pytree as pytree

import shardwright as sw
from shardwright.package.graphs import graph_bytes, graph_files, read_graph
from shardwright.package.graphs.archive import format_graph, parse_graph
from shardwright.program import torch_files
from shardwright.program.write import without_weights
from tests.support.graph_programs import CASES, program
from tests.support.models import Call


def test_torch_makes_no_canonical_form_meanwhile_and_does_afterwards(monkeypatch):
    made = []
    canonicalize = serialize.canonicalize
    monkeypatch.setattr(serialize, "canonicalize", canonicalize)
    key = serialize, "canonicalize"
    monkeypatch.setitem(torch_files._OWN, key, lambda *given: made.append(given) or canonicalize(*given))
    _, _, _, exported = program("symbolic sizes")
    bare = without_weights(exported)
    written = graph_bytes(bare)
    assert made == []
    saved = io.BytesIO()
    torch.export.save(bare, saved)
    assert len(made) == 1
    assert written == format_graph(parse_graph(saved.getvalue()))


def test_annotations_of_torch_s_schema_are_evaluated_once_for_each_class(tmp_path, monkeypatch):
    _, _, _, exported = program("symbolic sizes")
    (tmp_path / "graph").write_bytes(graph_bytes(without_weights(exported)))
    evaluated = []
    evaluate = typing.get_type_hints
    monkeypatch.setattr(typing, "get_type_hints", lambda kind, **rest: evaluated.append(kind) or evaluate(kind, **rest))
    read_graph(tmp_path / "graph")
    assert len(evaluated) == len(set(evaluated)) > 10
    assert serialize.typing is typing


def test_sizes_are_parsed_once_for_each_text(tmp_path, monkeypatch):
    shapes, model = ({0: torch.export.Dim("rows", min=2, max=64)},), Call(lambda x: x.abs().neg().exp().sin().cos())
    exported = without_weights(torch.export.export(model, (torch.ones(4, 3),), dynamic_shapes=shapes))
    (tmp_path / "graph").write_bytes(graph_bytes(exported))
    parsed = []
    parse = sympy.sympify
    # Its first call makes the symbol, which then has a meaning.
    monkeypatch.setattr(sympy, "sympify", lambda text, **rest: parsed.append(text) or parse(text, **rest))
    found = read_graph(tmp_path / "graph")
    texts = [one for one in parsed if isinstance(one, str)]
    assert 0 < len(texts) <= 2 * len(set(texts))
    assert serialize.sympy is sympy

    def sizes(program):
        held = [node.meta.get("val") for node in program.graph.nodes]
        return [[str(size) for size in (*one.shape, *one.stride())] for one in held if isinstance(one, torch.Tensor)]

    assert sizes(found) == sizes(exported)
    assert found.range_constraints == exported.range_constraints


@pytest.mark.parametrize("name", [*CASES, "a cache"])
def test_every_kind_of_program_is_saved_and_opened(tmp_path, name):
    module, args, kwargs, exported = program(name)
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    opened = sw.load(tmp_path / "p")
    with torch.no_grad():
        got = opened(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        wanted = copy.deepcopy(module)(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    (leaves, spec), (right, wanted_spec) = pytree.tree_flatten(got), pytree.tree_flatten(wanted)
    torch.testing.assert_close(leaves, right, rtol=1e-5, atol=1e-6)
    assert spec == wanted_spec


@pytest.fixture(scope="module")
def graph():
    return small_graph()


def small_graph():
    return graph_bytes(without_weights(sw.shard(program("symbolic sizes")[-1], mesh=1).exported(0)))


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


def rewritten(data, change):
    """The archive with its entries, by name, changed by ``change``."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        entries = {info.filename.partition("/")[2]: old.read(info) for info in old.infolist()}
    change(entries)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name, content in entries.items():
            new.writestr(f"graph/{name}", content)
    return out.getvalue()


def edited(data, edit, name=MODEL):
    """The archive with the JSON of one entry changed by ``edit``."""

    def change(entries):
        tree = json.loads(entries[name])
        edit(tree)
        entries[name] = json.dumps(tree).encode()

    return rewritten(data, change)


def first_node(model):
    return model["graph_module"]["graph"]["nodes"][0]


def set_target(target):
    return lambda model: first_node(model).update(target=target)


def set_argument(**kinds):
    return lambda model: first_node(model)["inputs"][0].update(arg=kinds)


def set_size(text):
    def edit(model):
        for value in model["graph_module"]["graph"]["tensor_values"].values():
            value["sizes"] = [{"as_expr": {"expr_str": text, "hint": {"as_int": 4}}}]

    return edit


def set_tree(text):
    return lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=text)


def tree(kind, context="null", children=()):
    return {"type": kind, "context": context, "children_spec": list(children)}


ODD = {
    "an operator of another module": (set_target("torch.invented.operator"), "the operator 'torch.invented"),
    "no operator": (set_target("invented"), "the operator 'invented"),
    "an operator that is not registered": (set_target("torch.ops.invented.operator.default"), "is not registered"),
    "an unknown operator of graphs": (set_target("torch.ops.higher_order.invented"), "the operator"),
    "a part of an operator": (set_target("torch.ops.aten.add.Tensor.part"), "the operator"),
    "unknown arithmetic": (set_target("_operator.invented"), "the operator"),
    "an argument that names an operator of another module": (set_argument(as_operator="torch.invented"), "operator"),
    "an argument of an unknown kind": (set_argument(as_invented=3), "as_invented"),
    "an object of a class": (set_argument(as_custom_obj={"name": "a", "class_fqn": "b"}), "as_custom_obj"),
    "a text with a quote": (set_argument(as_string='a"b'), "the text"),
    "texts with a line's end": (set_argument(as_strings=["a", "b\n"]), "the text"),
    "two kinds of argument": (set_argument(as_int=1, as_bool=True), "one kind of value"),
    "no kind of argument": (set_argument(), "one kind of value"),
    "a malformed name": (set_argument(as_tensor={"name": "a b"}), "regex"),
    "a size of an unknown function": (set_size("Invented(Integer(3))"), "it uses 'Invented'"),
    "an unknown field": (lambda model: model.update(invented=1), "invented"),
    "a field of another type": (lambda model: model["schema_version"].update(major="8"), "schema_version.major"),
    "another version": (lambda model: model["schema_version"].update(major=9), "schema_version.major"),
    "a path with a quote": (lambda model: model["graph_module"]["module_call_graph"][0].update(fqn='a"b'), "fqn"),
    "a malformed tree": (set_tree("[]"), "nesting of inputs"),
    "a tree of another protocol": (set_tree(json.dumps([2, tree("builtins.tuple")])), "nesting of inputs"),
    "a leaf with children": (set_tree(json.dumps([1, tree(None, None, [tree(None, None)])])), "leaf holds nothing"),
    "an unknown enumeration": (
        set_tree(json.dumps([1, tree("builtins.dict", '[{"__enum__": true, "fqn": "invented:Kind", "name": "A"}]')])),
        "not an enumeration",
    ),
    "an unknown factory": (
        set_tree(
            json.dumps(
                [
                    1,
                    tree(
                        "collections.defaultdict",
                        {"default_factory_module": "invented", "default_factory_name": "f", "dict_context": []},
                    ),
                ]
            )
        ),
        "nesting of inputs",
    ),
    "a keyword that is not a name": (
        set_tree(
            json.dumps([1, tree("builtins.tuple", "null", [tree("builtins.tuple"), tree("builtins.dict", '["a b"]')])])
        ),
        "keyword argument",
    ),
}


@pytest.mark.parametrize(("edit", "says"), ODD.values(), ids=ODD)
def test_what_no_sharded_graph_holds_is_refused(graph, edit, says):
    with pytest.raises(ValueError, match=says):
        parse_graph(edited(graph, edit))


def add(name, content):
    return lambda entries: entries.update({name: content})


ENTRIES = {
    "an unknown entry": (add("data/invented", b""), "data/invented"),
    "a second program": (add("models/other.json", b"{}"), "models/other.json"),
    "data of a weight": (add("data/weights/weight_0", b"data"), "not empty"),
    "data of example inputs": (add("data/sample_inputs/model.pt", b"data"), "not empty"),
    "extra files": (add("extra/notes", b"x"), "extra/notes"),
    "a frame that is long": (add("byteorder", b"little" * 100), "byteorder"),
    "no program": (lambda entries: entries.pop(MODEL), "lacks 'models/model.json'"),
    "no weights": (lambda entries: entries.pop(WEIGHTS), "lacks"),
}


@pytest.mark.parametrize(("change", "says"), ENTRIES.values(), ids=ENTRIES)
def test_entries_that_no_graph_has_are_refused(graph, change, says):
    with pytest.raises(ValueError, match=says):
        parse_graph(rewritten(graph, change))


@pytest.mark.parametrize(
    "change",
    [
        {"use_pickle": True},
        {"path_name": "other_0"},
        {"tensor_meta": None},
        {"is_param": 1},
    ],
)
def test_tensors_that_are_more_than_shapes_are_refused(graph, change):
    def edit(config):
        config["config"]["weight"].update(change)

    with pytest.raises(ValueError, match=r"\$\.config\[\.\.\.\]"):
        parse_graph(edited(graph, edit, WEIGHTS))


def test_tensors_lie_on_no_device(graph):
    def edit(config):
        config["config"]["weight"]["tensor_meta"]["device"] = {"type": "cpu", "index": None}

    with pytest.raises(ValueError, match="device"):
        parse_graph(edited(graph, edit, WEIGHTS))


def test_compressed_entries_and_claims_beyond_the_file_are_refused(graph):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"graph/{MODEL}", b" " * 2**20)
    with pytest.raises(ValueError, match="claim"):
        parse_graph(out.getvalue())
    with zipfile.ZipFile(io.BytesIO(graph)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    padded = b"\0" * len(graph) + out.getvalue()
    with pytest.raises(ValueError, match="compressed"):
        parse_graph(padded)
    twice = io.BytesIO(graph)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"graph/{MODEL}", b"{}")
    with pytest.raises(ValueError, match="under different names"):
        parse_graph(twice.getvalue())


def test_torch_reads_what_we_wrote(graph, tmp_path, monkeypatch):
    """The file itself never reaches torch: neither its bytes nor what its texts do not have to say."""
    seen = []
    real = graph_files.load_pt2
    monkeypatch.setattr(graph_files, "load_pt2", lambda file: seen.append(file.getvalue()) or real(file))

    def edit(model):
        first_node(model)["metadata"]["stack_trace"] += "\n    a note"
        first_node(model)["metadata"]["invented"] = "note"
        model.update(guards_code=["1 == 1"])
        model["graph_module"].update(metadata={"custom": "[]"})

    (tmp_path / "graph.pt2").write_bytes(edited(graph, edit))
    read_graph(tmp_path / "graph.pt2")
    assert seen == [graph]
    (tmp_path / "graph.pt2").write_bytes(edited(graph, set_size("Invented(Integer(3))")))
    with pytest.raises(sw.PackageError, match=r"is not a graph of a package.*\n  it was not opened"):
        read_graph(tmp_path / "graph.pt2")
    assert seen == [graph]


def test_what_torch_cannot_read_is_an_error_and_no_other_format_is_tried(graph, tmp_path, capfd):
    def edit(model):
        first_node(model)["inputs"][0].update(arg={"as_tensor": {"name": "invented"}})

    (tmp_path / "graph.pt2").write_bytes(edited(graph, edit))
    with pytest.raises(sw.PackageError, match="cannot be read as a graph"):
        read_graph(tmp_path / "graph.pt2")
    assert "Traceback" not in capfd.readouterr().err


class Pair(dict):
    """What a library's models return, known to PyTorch where the library is imported."""


pytree.register_pytree_node(
    Pair,
    lambda one: (list(one.values()), list(one)),
    lambda values, keys: Pair(zip(keys, values, strict=True)),
    serialized_type_name="library.outputs.Pair",
)


class Paired(nn.Module):
    def forward(self, x):
        return Pair(one=x + 1, other=x * 2)


def test_a_class_that_nobody_has_registered_is_named(tmp_path, monkeypatch):
    exported = torch.export.export(Paired(), (torch.ones(2),))
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    with monkeypatch.context() as before_the_import:
        before_the_import.delitem(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE, "library.outputs.Pair")
        pytree.treespec_loads.cache_clear()
        with pytest.raises(
            sw.PackageError, match=r"a library\.outputs\.Pair, .*\n  try: import library\.outputs before"
        ):
            sw.load(tmp_path / "p")
    assert type(sw.load(tmp_path / "p")(torch.ones(2))) is Pair


def test_what_torch_saves_is_read_too(tmp_path):
    """Earlier versions kept torch's own archive."""
    exported = without_weights(sw.shard(program("symbolic sizes")[-1], mesh=1).exported(0))
    torch.export.save(exported, tmp_path / "graph.pt2")
    found, theirs = read_graph(tmp_path / "graph.pt2"), torch.export.load(tmp_path / "graph.pt2")
    assert found.graph_module.code == theirs.graph_module.code
    assert found.call_spec == theirs.call_spec
    assert str(found.graph_signature) == str(theirs.graph_signature)
    assert str(found.range_constraints) == str(theirs.range_constraints)


def test_equal_programs_give_equal_bytes(graph):
    assert format_graph(parse_graph(graph)) == graph
    assert small_graph() == graph


def test_several_threads_may_read(tmp_path, monkeypatch):
    """Torch itself has one reader at a time: "_CURRENT_DESERIALIZER is already set"."""
    _, _, _, exported = program("symbolic sizes")
    (tmp_path / "graph").write_bytes(graph_bytes(without_weights(exported)))
    reading, most, load = [], [], graph_files.load_pt2

    def load_slowly(file):
        reading.append(file)
        most.append(len(reading))
        threading.Event().wait(0.1)
        try:
            return load(file)
        finally:
            reading.remove(file)

    monkeypatch.setattr(graph_files, "load_pt2", load_slowly)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(read_graph, [tmp_path / "graph"] * 3))
    assert most == [1, 1, 1]
    assert len({str(one.graph) for one in found}) == 1
