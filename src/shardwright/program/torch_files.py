"""What torch does again and again while it reads and writes programs, done once or not at all.

Like `torch_repeats`, this file uses names that torch does not promise to keep. Where one is gone, torch does what it
does, and takes its time.
"""

import dataclasses
import functools
import re
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace
from typing import Any

import sympy
from torch._export.serde import serialize, union

_REPLACED = (
    *((serialize, name) for name in ("canonicalize", "typing", "sympy", "dataclasses", "_dict_to_dataclass")),
    (union, "fields"),
)
_OWN: Mapping[tuple[Any, str], Any] = {(home, name): vars(home)[name] for home, name in _REPLACED if name in vars(home)}
"""What stands in torch's modules, by module and name."""


@contextmanager
def _instead(*stand_ins: tuple[Any, str, Any]) -> Iterator[None]:
    """Let others stand in for what torch has under these names, where it has them."""
    there = [(home, name, new) for home, name, new in stand_ins if (home, name) in _OWN]
    for home, name, new in there:
        setattr(home, name, new)
    try:
        yield
    finally:
        for home, name, _ in there:
            setattr(home, name, _OWN[home, name])


@contextmanager
def texts_read_once() -> Iterator[None]:
    """Let torch read programs without evaluating anew, for every object in a file, what it keeps as text: annotations
    of its schema, and sizes. Nor does it list the fields of a class anew for every object of it.
    One thread at a time: torch keeps what it reads in one place for all of them, and refuses a second reader.
    """
    known: dict[tuple[Any, int], dict[str, Any]] = {}

    def hints_of(kind: Any, globalns: dict[str, Any] | None = None) -> dict[str, Any]:
        key = kind, id(globalns)
        if key not in known:
            known[key] = typing.get_type_hints(kind, globalns=globalns)
        return known[key]

    sizes: dict[Any, Any] = {}

    def size_of(text: Any, locals: Mapping[str, Any] | None = None) -> Any:  # noqa: A002 (its name in sympy)
        # What a text means follows from what its words do; a word without a meaning yet becomes a symbol.
        if not isinstance(text, str):
            return sympy.sympify(text, locals=locals)
        key = text, tuple(map((locals or {}).get, _WORD.findall(text)))
        if key not in sizes:
            sizes[key] = sympy.sympify(text, locals=locals)
        return sizes[key]

    stand_ins = (
        (serialize, "typing", SimpleNamespace(**{**vars(typing), "get_type_hints": hints_of})),
        (serialize, "sympy", SimpleNamespace(**{**vars(sympy), "sympify": size_of})),
        (serialize, "_dict_to_dataclass", _Reader(hints_of).read),
    )
    with _READING, _instead(*stand_ins), _fields_listed_once():
        yield


_READING = threading.RLock()


def _dict_to_dataclass(kind: Any, data: Any) -> Any:
    return _OWN[serialize, "_dict_to_dataclass"](kind, data)


class _Reader:
    """Makes objects of torch's schema of what JSON gives, as `_dict_to_dataclass` does, which works out anew for every
    object what its type asks for. What does not fit a type is left to torch, which says so.
    """

    def __init__(self, hints_of: Callable[..., dict[str, Any]]) -> None:
        self.hints_of = hints_of
        self.of_type = functools.cache(self._make)

    def read(self, kind: Any, data: Any) -> Any:
        """An object of a type, of the annotations of a schema."""
        return self.of_type(kind)(data)

    def _make(self, kind: Any) -> Callable[[Any], Any]:
        """A function of data for one type."""
        kind = serialize._resolve_schema_cls(kind)
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self.of_type(kind.__origin__)
        if origin in (typing.Union, types.UnionType) and type(None) in parts and len(parts) == 2:
            return lambda data: None if data is None else self.of_type(parts[0])(data)
        if isinstance(kind, type) and issubclass(kind, union._Union):
            return self._union(kind)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self._record(kind)
        if origin in (list, dict) and len(parts) == (1 if origin is list else 2):
            return self._many(kind, parts[-1])
        is_simple = kind in (bool, int, str) or (isinstance(kind, type) and issubclass(kind, Enum))
        return lambda data: data if is_simple and type(data) in (bool, int, str) else _dict_to_dataclass(kind, data)

    def _union(self, kind: Any) -> Callable[[Any], Any]:
        hints = self.hints_of(kind, globalns=vars(serialize.schema))
        ready: dict[str, Callable[[Any], Any]] = {}

        def read(data: Any) -> Any:
            name, value = next(iter(data.items())) if isinstance(data, dict) and len(data) == 1 else (None, None)
            if name not in hints:
                return _dict_to_dataclass(kind, data)
            if name not in ready:
                ready[name] = self.of_type(hints[name])
            return kind.create(**{name: ready[name](value)})

        return read

    def _record(self, kind: Any) -> Callable[[Any], Any]:
        hints = self.hints_of(kind, globalns=vars(serialize.schema))
        names = [field.name for field in dataclasses.fields(kind)]
        ready: list[tuple[str, Callable[[Any], Any]]] = []

        def read(data: Any) -> Any:
            # Types refer to each other in circles: those of fields are looked at when the first object is made. Set all
            # at once, as another thread may be reading.
            if not ready:
                ready[:] = [(name, self.of_type(hints[name])) for name in names]
            return kind(**{name: one(data[name]) for name, one in ready if name in data})

        return read

    def _many(self, kind: Any, part: Any) -> Callable[[Any], Any]:
        def read(data: Any) -> Any:
            one = self.of_type(part)
            if isinstance(data, list) and kind.__origin__ is list:
                return [one(value) for value in data]
            if isinstance(data, dict) and kind.__origin__ is dict:
                return {name: one(value) for name, value in data.items()}
            return _dict_to_dataclass(kind, data)

        return read


_WORD = re.compile(r"[^\W\d]\w*")


@contextmanager
def without_canonical_form() -> Iterator[None]:
    """Let torch write programs without also making a canonical form of each, which copies the program and is dropped.

    It takes two thirds of the time, and shows no more than that such a form can be made.
    """
    same = (serialize, "canonicalize", lambda program, constants=None: program)
    with _instead(same), _fields_listed_once():
        yield


@contextmanager
def _fields_listed_once() -> Iterator[None]:
    """Let torch read and write programs with the fields of each class of its schema at hand."""
    known = functools.cache(dataclasses.fields)

    def fields_of(one: Any) -> tuple[dataclasses.Field[Any], ...]:
        return known(one if isinstance(one, type) else type(one))

    namespace = SimpleNamespace(**{**vars(dataclasses), "fields": fields_of})
    with _instead((serialize, "dataclasses", namespace), (union, "fields", fields_of)):
        yield
