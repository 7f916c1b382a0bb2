"""Writing nodes into one rank's graph, each with true local metadata.

The operator runs on fake tensors once for every distinct call; equal calls (the other 79 layers) share what it gave,
and those of other ranks and programs get a tensor of the same sizes (`known_results`).
"""

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from shardwright.partition.known_results import UNKNOWN, known_result, remember_result
from shardwright.program.collectives import holds_collectives
from shardwright.program.nodes import add_node, val_of
from shardwright.program.torch_private import FakeTensor, enable_python_dispatcher
from shardwright.rules.call import leaves, map_values


class Place(NamedTuple):
    """What a node is written for: a step, given as the number of its first value, or moving one of its values."""

    value: tuple[int, int]
    is_moved: bool


class Emitter:
    """One rank's graph under construction."""

    def __init__(self, owner: torch.nn.Module, fake_mode: Any) -> None:
        self.graph = fx.Graph(owner)  # type: ignore[arg-type]
        self.fake_mode = fake_mode
        self.meta: dict[str, Any] = {}
        """Metadata (module stack, stack trace) given to every node written now."""
        self.place = Place((-1, 0), is_moved=False)
        """What every node is written for now."""
        self.log: list[tuple[fx.Node, str | None, Place]] = []
        """Every node written, the name that was asked for, and what it is for."""
        self.is_of_rank = False
        """Whether something was written that other ranks with pieces as long write otherwise."""
        self._seen: dict[Any, Any] = {}
        self._facts: dict[int, tuple[Any, int]] = {}
        self._first_of: dict[Any, Any] = {}

    def call(self, op: Any, *args: Any, name: str | None = None, **kwargs: Any) -> fx.Node:
        """Write a call of an operator; its result's metadata comes from running it on fake tensors.

        Raises what the operator raises, before anything is written.
        """
        return self.write(op, args, kwargs, self.evaluate(op, args, kwargs), name=name)

    def write(
        self, op: Any, args: Sequence[Any], kwargs: dict[str, Any], val: Any, *, name: str | None = None
    ) -> fx.Node:
        """Write a call whose result metadata is known."""
        node = add_node(self.graph, "call_function", op, args, kwargs, name)
        meta = node.meta
        meta.update(self.meta)
        meta["val"] = val
        self.log.append((node, name, self.place))
        if "torch_fn" not in meta:
            # Every node of an exported graph names a function; exporters check the key, not the text.
            meta["torch_fn"] = (node.name, f"{type(op).__name__}.{getattr(op, '__name__', op)}")
        return node

    def logged(self, name: str, write: Callable[[], Any]) -> tuple[Any, list[tuple[fx.Node, bool]]]:
        """What ``write`` gives, and every node that it writes, with whether that was to be called ``name``."""
        start = len(self.log)
        result = write()
        return result, [(node, asked == name) for node, asked, _ in self.log[start:]]

    def fact(self, val: Any) -> int | None:
        """A number for what is known of a value, one for all that lie alike; None where sizes are not known."""
        found = self._facts.get(id(val))
        if found is None:
            facts = facts_of(val) if isinstance(val, torch.Tensor) else None
            if facts is None:
                return None
            # The value is kept, so that no other has its id.
            found = self._facts[id(val)] = val, id(self._first_of.setdefault(facts, val))
        return found[1]

    def number(self, node: fx.Node) -> int:
        """A number for the value of a node: its `fact`, or one of its own."""
        val = node.meta["val"]
        found = self.fact(val)
        return id(val) if found is None else found

    def open(self, node: fx.Node) -> Any:
        """The results of a call: the node itself, or a (nested) list of the nodes that take it apart."""
        val = node.meta["val"]
        if not isinstance(val, (list, tuple)):
            return node
        return [self.open(self.write(operator.getitem, (node, i), {}, item)) for i, item in enumerate(val)]

    def evaluate(self, op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The fake result of a call, memoised over equal operands."""
        key = self._key(op, args, kwargs)
        if key is not None:
            if key not in self._seen and (known := known_result(op, key, self.fake_mode)) is not UNKNOWN:
                self._seen[key] = known
            if key in self._seen:
                return self._seen[key]
        fake_args, fake_kwargs = map_values((tuple(args), kwargs), lambda value: _runnable(val_of(value)))
        if self.fake_mode is None or op == operator.getitem:
            result = op(*fake_args, **fake_kwargs)
        else:
            # Kernels that are composed of others read sizes as numbers; their Python ones take symbols.
            symbols = enable_python_dispatcher() if _is_symbolic(fake_args, fake_kwargs) else nullcontext()
            with self.fake_mode, torch.no_grad(), symbols:
                result = op(*fake_args, **fake_kwargs)
        if key is not None:
            self._seen[key] = result
            remember_result(op, key, self.fake_mode, (fake_args, fake_kwargs), result)
        return result

    def fake(self, shape: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A contiguous fake tensor of its own."""
        if self.fake_mode is None:
            return torch.empty(*shape, dtype=dtype, device="meta")
        if all(type(size) is int for size in shape):
            # As the mode would make it, without its way through the dispatcher.
            return FakeTensor(self.fake_mode, torch.empty(tuple(shape), dtype=dtype, device="meta"), device)
        with self.fake_mode:
            return torch.empty(tuple(shape), dtype=dtype, device=device)

    def sizes(self, node: fx.Node) -> list[Any]:
        """The sizes of a value: numbers, or nodes that read them when they are symbolic."""
        found: list[Any] = []
        for dim, size in enumerate(node.meta["val"].shape):
            found.append(size if isinstance(size, int) else self.call(torch.ops.aten.sym_size.int, node, dim))
        return found

    def _key(self, op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        parts: list[Any] = [op]
        for leaf in leaves((tuple(args), kwargs)):
            value = val_of(leaf)
            if isinstance(value, torch.Tensor):
                facts = facts_of(value)
                if facts is None:
                    return None
                parts.append(facts)
            elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, list, tuple)):
                return None
            else:
                parts.append((type(value), repr(value) if isinstance(value, float) else value))
        # The nesting of the arguments tells cat([a], ...) from cat(a, ...).
        parts.append(_nesting(args))
        parts.append(tuple(kwargs))
        return tuple(parts)


class _Subgraph(fx.Interpreter):
    """Runs a subgraph node by node: the code that torch generates of it would not find what a collective's cut is."""

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What the subgraph holds, its own subgraphs as callables."""
        return _runnable(super().get_attr(target, args, kwargs))


def _runnable(value: Any) -> Any:
    """A subgraph that communicates as a callable; anything else as it is."""
    if isinstance(value, fx.GraphModule) and holds_collectives(value.graph):
        return _Subgraph(value).run
    return value


def facts_of(value: torch.Tensor) -> tuple[Any, ...] | None:
    """What a call can tell of a fake tensor; None where sizes are not known."""
    shape, stride = tuple(value.shape), value.stride()
    if not all(type(size) is int for size in (*shape, *stride)):
        return None
    return shape, stride, value.dtype, value.device


def is_dense(node: fx.Node) -> bool:
    """Whether a value is contiguous in memory; no, where that depends on sizes that are not known yet."""
    return is_contiguous(node.meta["val"])


def is_contiguous(tensor: torch.Tensor) -> bool:
    """As `is_dense`, of a fake tensor."""
    try:
        return bool(tensor.is_contiguous())
    except GuardOnDataDependentSymNode:
        return False


def _nesting(args: Any) -> Any:
    if isinstance(args, (list, tuple)):
        return tuple(_nesting(item) for item in args)
    return None


def _is_symbolic(args: Any, kwargs: Any) -> bool:
    """Whether a call has numbers, or tensors of sizes or strides, that are not known."""
    return any(
        isinstance(leaf, torch.SymInt)
        or (isinstance(leaf, torch.Tensor) and any(isinstance(n, torch.SymInt) for n in (*leaf.shape, *leaf.stride())))
        for leaf in leaves((args, kwargs))
    )
