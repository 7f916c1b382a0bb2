"""What torch is spared while it reads and writes programs is not missed: what it reads is what it reads alone."""

import dataclasses
import importlib.util
import json
import typing

import pytest
from torch._export.serde import schema, serialize, union

from shardwright.program import torch_files
from shardwright.program.torch_files import texts_read_once
from tests.support.graph_programs import CASES, program


def written(exported):
    """What torch writes of a program, as JSON has it."""
    return json.loads(serialize.serialize(exported).exported_program)


@pytest.mark.parametrize("name", CASES)
def test_what_json_holds_is_read_as_torch_reads_it(name):
    data = written(program(name)[-1])
    wanted = serialize._dict_to_dataclass(schema.ExportedProgram, data)
    with texts_read_once():
        assert serialize._dict_to_dataclass(schema.ExportedProgram, data) == wanted
        # Keys of a later version are passed over, and fields of an earlier one take their defaults.
        other = {**{key: value for key, value in data.items() if key != "torch_version"}, "later": 1}
        found = serialize._dict_to_dataclass(schema.ExportedProgram, other)
    assert found == serialize._dict_to_dataclass(schema.ExportedProgram, other) != wanted


@pytest.mark.parametrize("data", [7, {}, {"as_int": 1, "as_float": 2.0}, {"as_nothing": 1}])
def test_what_is_no_argument_is_refused_as_torch_refuses_it(data):
    def refused():
        try:
            serialize._dict_to_dataclass(schema.Argument, data)
        except (AssertionError, KeyError) as error:
            return type(error), str(error)

    wanted = refused()
    assert wanted
    with texts_read_once():
        assert refused() == wanted


@dataclasses.dataclass
class Named:
    number: int
    name: str


def test_another_thread_that_reads_an_object_sees_all_of_its_fields(monkeypatch):
    reader = torch_files._Reader(typing.get_type_hints)
    read, of_type, found = reader.of_type(Named), reader.of_type, []

    def of_type_meanwhile(kind):
        if kind is str and not found:
            # As another thread would, which comes when one of the two fields has been looked at.
            found.append(None)
            found.append(read({"number": 1, "name": "one"}))
        return of_type(kind)

    monkeypatch.setattr(reader, "of_type", of_type_meanwhile)
    assert read({"number": 2, "name": "two"}) == Named(2, "two")
    assert found == [None, Named(1, "one")]


def test_what_torch_has_no_more_is_done_without(monkeypatch):
    gone = [(serialize, "canonicalize"), (serialize, "sympy"), (serialize, "_dict_to_dataclass"), (union, "fields")]
    for home, name in gone:
        monkeypatch.delattr(home, name)
    spec = importlib.util.spec_from_file_location("as_if_imported_then", torch_files.__file__)
    then = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(then)
    with then.texts_read_once(), then.without_canonical_form():
        assert serialize.typing is not typing
    assert serialize.typing is typing
    assert not any(hasattr(home, name) for home, name in gone)
