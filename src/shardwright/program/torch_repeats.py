"""What torch does again and again while it exports, decomposes, reads and writes programs, done once or not at all.

Like `torch_private`, this file uses names that torch does not promise to keep. Where one is gone, torch does what it
does, and takes its time.
"""

import dataclasses
import functools
import re
import sys
import threading
import traceback
import types
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace
from typing import Any

import sympy
from torch import _ops, fx
from torch._export import utils as export_utils
from torch._export.serde import serialize, union
from torch.export import exported_program
from torch.fx import proxy
from torch.fx.graph import _PyTreeCodeGen

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
def operators_listed_once() -> Iterator[None]:
    """Let `run_decompositions` look up all operators of C++ once, not once for each of some fifty namespaces.

    All are found the first time, whichever namespace is asked for. That takes a third of the time of a small program.
    A third of what is left is kernels, made anew for each of a thousand operators, whose annotations are evaluated
    anew for each: they depend on nothing but the operator. One thread at a time: two that each put back what they
    found would leave what one of them had put there.
    """
    with _DECOMPOSING:
        before = [(module, name, vars(module)[name], once) for module, name, once in _REPEATED if name in vars(module)]
        for module, name, value, once in before:
            setattr(module, name, once(value))
        try:
            yield
        finally:
            for module, name, value, _ in before:
                setattr(module, name, value)


_DECOMPOSING = threading.RLock()


class _HasCallables(type):
    """Its classes have all callables as instances: operators on script objects ask that of their kernels."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return callable(instance)


class _Unevaluated(metaclass=_HasCallables):
    """Stands for `Callable` in annotations that nobody reads: any parameters give itself."""

    def __class_getitem__(cls, parameters: Any) -> Any:
        return cls


_REPEATED: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (export_utils, "_materialize_cpp_cia_ops", functools.cache),
    (export_utils, "_collect_all_valid_cia_ops_for_namespace", functools.cache),
    (exported_program, "autograd_not_implemented", functools.cache),
    (_ops, "Callable", lambda _: _Unevaluated),
)
"""What `run_decompositions` uses many times: the module that names it, its name there, and what takes less time."""


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


@contextmanager
def quick_tracing() -> Iterator[None]:
    """Let torch trace and change programs without two things that it does anew each time. Threads may overlap.

    It writes and compiles the Python code of a graph at every change, some thirty times for one export, which takes a
    quarter of the time: a module makes the code when somebody runs or reads it, within the context or long after. And
    it looks up the source lines of all frames below every operator that is called, of which most are the same.
    """
    _QUICK.enter()
    try:
        yield
    finally:
        _QUICK.leave()


class _Quick:
    """What stands in torch's places while somebody traces."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.replaced: list[tuple[Any, str, Any]] = []

    def enter(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                meanwhile = ((fx.GraphModule, "recompile", _leave_for_later), (proxy, "CapturedTraceback", _Stacks()))
                found = [(home, name, new) for home, name, new in meanwhile if name in vars(home)]
                self.replaced = [(home, name, vars(home)[name]) for home, name, _ in found]
                for home, name, new in found:
                    setattr(home, name, new)

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                for home, name, old in self.replaced:
                    setattr(home, name, old)


_QUICK = _Quick()


class _Stacks:
    """What `fx.proxy` captures stacks with. Torch's own makes a dict of each of a hundred frames below every operator;
    here a frame is looked up by its place in its code, and found to be one that is known.
    """

    def __init__(self) -> None:
        # Code objects are held, so that no other one gets their place in memory.
        self.known: dict[tuple[int, int], tuple[types.CodeType, traceback.FrameSummary]] = {}

    def extract(self) -> SimpleNamespace:
        """The stack of whoever calls, whose ``summary()`` has the outermost frame first."""
        known, found, frame = self.known, [], sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            key = id(code), frame.f_lasti
            if key not in known:
                known[key] = code, traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name)
            found.append(known[key][1])
            frame = frame.f_back
        found.reverse()
        return SimpleNamespace(summary=lambda: traceback.StackSummary(found))


_RECOMPILE = fx.GraphModule.recompile
_WRITING = threading.RLock()
_WRITTEN = ("_code", "_lineno_map", "_prologue_start")
"""What a module holds once its code is written."""


def _leave_for_later(module: fx.GraphModule) -> "_LateCode":
    """In place of `fx.GraphModule.recompile`: what the code will be is asked of the graph by whoever needs it first."""
    codegen = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        module._in_spec, module._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
    # Every graph module has a class of its own.
    kind: Any = type(module)
    for name in ("forward", *_WRITTEN):
        setattr(kind, name, _Late(module, name))
    kind.__reduce__ = _reduce
    for name in _WRITTEN:
        vars(module).pop(name, None)
    module._recompile_submodules()
    return _LateCode(module.graph)


def _write(module: Any) -> None:
    kind = type(module)
    with _WRITING:
        # What stands for the code stays until there is some: another thread that asks meanwhile waits here.
        _RECOMPILE(module)
        for name, value in list(vars(kind).items()):
            if isinstance(value, _Late) or value is _reduce:
                delattr(kind, name)


class _Late:
    """Stands for an attribute that a graph module has once its code is written; whoever asks has it written."""

    def __init__(self, module: fx.GraphModule, name: str) -> None:
        self.module, self.name = weakref.ref(module), name

    def __get__(self, instance: Any, owner: Any) -> Any:
        module = self.module()
        if module is None:
            raise AttributeError(self.name)
        _write(module)
        return getattr(owner if instance is None else instance, self.name)


class _LateCode:
    """Stands for the code that `fx.GraphModule.recompile` gives back, which few look at."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self.graph.python_code("self"), name)


def _reduce(module: Any) -> Any:
    """How a module is pickled: by its code."""
    _write(module)
    return module.__reduce__()
