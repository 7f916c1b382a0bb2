"""What torch does again and again while it decomposes, reads and writes programs, done once or not at all.

Like `torch_private`, this file uses names that torch does not promise to keep. Where one is gone, torch does what it
does, and takes its time.
"""

import functools
import re
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import sympy
from torch import _ops
from torch._export import utils as export_utils
from torch._export.serde import serialize
from torch.export import exported_program

_canonicalize = serialize.canonicalize


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
    (exported_program, "autograd_not_implemented", functools.cache),
    (_ops, "Callable", lambda _: _Unevaluated),
)
"""What `run_decompositions` uses many times: the module that names it, its name there, and what takes less time."""


@contextmanager
def texts_read_once() -> Iterator[None]:
    """Let torch read programs without evaluating anew, for every object in a file, what it keeps as text: annotations
    of its schema, and sizes.
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

    serialize.typing = SimpleNamespace(**{**vars(typing), "get_type_hints": hints_of})  # type: ignore[assignment]
    serialize.sympy = SimpleNamespace(**{**vars(sympy), "sympify": size_of})  # type: ignore[assignment]
    try:
        yield
    finally:
        serialize.typing, serialize.sympy = typing, sympy


_WORD = re.compile(r"[^\W\d]\w*")


@contextmanager
def without_canonical_form() -> Iterator[None]:
    """Let torch write programs without also making a canonical form of each, which copies the program and is dropped.

    It takes two thirds of the time, and shows no more than that such a form can be made.
    """
    serialize.canonicalize = lambda program, constants=None: program  # type: ignore[assignment]
    try:
        yield
    finally:
        serialize.canonicalize = _canonicalize
