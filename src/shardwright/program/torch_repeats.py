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
from torch._logging import _internal
from torch.export import exported_program
from torch.fx import proxy
from torch.fx.experimental import sym_node
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.fx.experimental.sym_node import SymNode
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.immutable_collections import immutable_dict


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
    """Let torch trace and change programs without three things that it does anew each time. Threads may overlap.

    It writes and compiles the Python code of a graph at every change, some thirty times for one export, which takes a
    quarter of the time: a module makes the code when somebody runs or reads it, within the context or long after. It
    looks up the source lines of all frames below every operator that is called, of which most are the same. And where
    sizes may change, it works out and compares a few hundred expressions of sizes some ten thousand times, which takes
    a third of the time.
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
                meanwhile = (
                    (fx.GraphModule, "recompile", _leave_for_later),
                    (proxy, "CapturedTraceback", _Stacks()),
                    *_quick_sizes(),
                )
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


_NUMBERS = (int, float, bool, type(None))
"""What a size was in the example that is traced; a nested tensor's sizes are other things."""

_OF_TWO_SIZES = (
    *("_add", "_sub", "_mul", "_floordiv", "_int_floordiv", "_sym_max", "_sym_min", "_and_", "_or_"),
    *("_eq", "_ne", "_ge", "_gt", "_le", "_lt"),
)
"""What is computed of two sizes and of nothing else: what `mod` gives depends on what is known about them."""


def _quick_sizes() -> Iterator[tuple[Any, str, Any]]:
    """What stands in the places of torch's arithmetic of sizes: a class, a name in it, and what takes less time."""
    read_expression: Any = vars(SymNode)["expr"].fget
    fields = {*SymNode.__init__.__code__.co_names, *read_expression.__code__.co_names}
    if not (fields >= _SIZE_FIELDS and hasattr(sym_node, "_NO_HINT") and hasattr(_internal, "GET_DTRACE_STRUCTURED")):
        return
    yield SymNode, "expr", property(functools.partial(_expression, read_expression))
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for name in _OF_TWO_SIZES:
        if name in vars(SymNode):
            yield SymNode, name, _remembered(name, vars(SymNode)[name], known)


_SIZE_FIELDS = {
    *("_expr", "_expr_ver", "_expr_cache", "_hint", "_optimized_summation", "pytype", "shape_env"),
    "_replacements_version_counter",
}
"""What torch keeps of a size, and of what it has learned about sizes, by the names it uses. Torch 2.11 has others."""


def _expression(slow: Callable[[Any], Any], size: Any) -> Any:
    """A size's expression. Torch first asks what kind of expression it is, which takes longer than what follows."""
    if size.shape_env is not None:
        version = size.shape_env._replacements_version_counter
        if not version:
            return size._expr
        if version == size._expr_ver and size._expr_cache is not None:
            return size._expr_cache
    return slow(size)


def _remembered(name: str, slow: Callable[[Any, Any], Any], known: dict[tuple[Any, ...], tuple[Any, ...]]) -> Any:
    """``slow(size, other)``, computed once for the same two expressions. What is traced into a graph is not."""

    def compute(size: Any, other: Any) -> Any:
        shape_env, value, other_value = size.shape_env, size._hint, other._hint
        if (
            shape_env is None
            or type(value) not in _NUMBERS
            or type(other_value) not in _NUMBERS
            or get_proxy_mode() is not None
            or shape_env._translation_validation_enabled
            or _internal.GET_DTRACE_STRUCTURED
        ):
            return slow(size, other)
        key = (
            *(name, size.expr, other.expr, value, other_value, size.pytype, other.pytype),
            *(size._optimized_summation, other._optimized_summation),
        )
        if key not in known:
            made = slow(size, other)
            hint = sym_node._NO_HINT if made._hint is None else made._hint
            known[key] = made._expr, made.pytype, hint, made._optimized_summation
            return made
        expression, kind, hint, summation = known[key]
        return SymNode(expression, shape_env, kind, hint, optimized_summation=summation)

    return compute


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


_OF_GRAPHS = ("_graph_namespace", "_insert", "_find_nodes_lookup_table", "_len", "_target_to_str")
"""What torch keeps of a graph, by the names it uses."""

_ADDS_AS_KNOWN = all(hasattr(fx.Graph(), name) for name in _OF_GRAPHS)


def is_as_expected(graph: fx.Graph) -> bool:
    """Whether `new_node` knows all that torch does where a node is added to a graph."""
    return _ADDS_AS_KNOWN and getattr(graph.owning_module, "_create_node_hooks", None) is None


def new_node(
    graph: fx.Graph, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
) -> fx.Node:
    """What `fx.Graph.create_node` does for arguments without bare symbolic numbers, and without hooks."""
    names = graph._graph_namespace
    name = names.create_name(graph._target_to_str(target) if name is None else name, None)
    node = fx.Node(graph, name, op, target, args, kwargs or _NO_KEYWORDS)
    names._obj_to_name[node] = name
    graph._insert(node)
    graph._find_nodes_lookup_table.insert(node)
    graph._len += 1
    return node


_NO_KEYWORDS: Any = immutable_dict()
