"""What torch does again and again while it exports and decomposes programs, done once or not at all.

Like `torch_private`, this file uses names that torch does not promise to keep. Where one is gone, torch does what it
does, and takes its time.
"""

import functools
import sys
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch import _ops, fx
from torch._export import utils as export_utils
from torch.export import exported_program
from torch.fx import proxy
from torch.fx.graph import _PyTreeCodeGen


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
