"""From arguments to a `Call`: the schema's names bound, tensors replaced by metadata."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from shardwright.layout.sizes import Size, size_hint
from shardwright.program.nodes import is_tensor
from shardwright.program.torch_private import has_schema, schema_of
from shardwright.rules.aliases import resolve_alias
from shardwright.rules.rule import Call, TensorMeta


@lru_cache(maxsize=4096)
def schema_arguments(op: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Name, default and whether keyword-only, for each argument of an operator's schema (or a Python function)."""
    if not has_schema(op):
        return tuple((name, None, False) for name in inspect.signature(op).parameters)
    return tuple(
        (a.name, a.default_value if a.has_default_value() else None, a.kwarg_only) for a in schema_of(op).arguments
    )


def bind_arguments(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every schema argument by name, defaults filled in."""
    bound = {}
    for position, (name, default, _) in enumerate(schema_arguments(op)):
        bound[name] = args[position] if position < len(args) else kwargs.get(name, default)
    return bound


def bind_call(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The operator that a call is of, another name's own one behind it, and every argument by the name it has there."""
    arguments, found = bind_arguments(op, args, kwargs), resolve_alias(op)
    if found is None:
        return op, arguments
    known = {**found.given, **{found.names[name]: value for name, value in arguments.items()}}
    return found.op, {name: known.get(name, default) for name, default, _ in schema_arguments(found.op)}


def unbind_arguments(op: Any, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from named ones, trailing defaults left out as an exporter would."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    pending: list[Any] = []
    for name, default, keyword_only in schema_arguments(op):
        value = arguments[name]
        is_default = value is None if default is None else type(value) is type(default) and value == default
        if keyword_only:
            if not is_default or not _has_default(op, name):
                keywords[name] = value
        else:
            pending.append(value)
            if not is_default or not _has_default(op, name):
                positional, pending = positional + pending, []
    return tuple(positional), keywords


@lru_cache(maxsize=4096)
def _defaults(op: Any) -> frozenset[str]:
    if not has_schema(op):
        return frozenset()
    return frozenset(a.name for a in schema_of(op).arguments if a.has_default_value())


def _has_default(op: Any, name: str) -> bool:
    return name in _defaults(op)


def map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to every leaf of nested lists, tuples and dicts; other sequence types become tuples."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([map_values(item, function) for item in value])
    if isinstance(value, (list, tuple)):
        return tuple(map_values(item, function) for item in value)
    if isinstance(value, dict):
        return {key: map_values(item, function) for key, item in value.items()}
    return function(value)


def leaves(value: Any) -> list[Any]:
    """The leaves of nested lists, tuples and dicts, in order."""
    found: list[Any] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    else:
        found.append(value)


def symbolic_size(value: Any) -> Any:
    """A symbolic int as its sympy expression (a plain int when it is one); anything else unchanged."""
    if isinstance(value, torch.SymInt):
        expression: Size = value.node.expr
        return int(expression) if getattr(expression, "is_Integer", False) else expression
    return value


def tensor_meta(tensor: torch.Tensor) -> TensorMeta:
    """Shape and dtype of a (fake) tensor."""
    return TensorMeta(tuple(symbolic_size(size) for size in tensor.shape), tensor.dtype)


def num_elements(tensor: torch.Tensor, fake_mode: Any) -> int:
    """The elements of a whole value; an unknown size counts as in the example."""
    shape = tensor_meta(tensor).shape
    if all(isinstance(size, int) for size in shape):
        return math.prod(shape)
    return math.prod(size_hint(size, fake_mode) for size in shape)


def num_bytes(tensor: torch.Tensor, fake_mode: Any) -> int:
    """The bytes of a whole value, as `num_elements` counts."""
    return num_elements(tensor, fake_mode) * tensor.element_size()


def make_call(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Call:
    """The `Call` of an operator applied to (fake or real) tensors with this result."""
    op, arguments = bind_call(op, args, kwargs)
    described = {
        name: map_values(value, lambda v: tensor_meta(v) if isinstance(v, torch.Tensor) else symbolic_size(v))
        for name, value in arguments.items()
    }
    operands = tuple(v for v in leaves(list(described.values())) if isinstance(v, TensorMeta))
    results = tuple(tensor_meta(r) if isinstance(r, torch.Tensor) else None for r in leaves(result))
    return Call(op, described, operands, results)


def operand_nodes(node: fx.Node) -> list[fx.Node]:
    """The tensor arguments of a node in schema order, lists flattened: the order of `Call.operands`."""
    arguments: Any = (node.args, node.kwargs)
    if node.kwargs and has_schema(node.target):
        arguments = list(bind_arguments(node.target, node.args, node.kwargs).values())
    return tensors_among(arguments)


def tensors_among(arguments: Any) -> list[fx.Node]:
    """The nodes of tensors in arguments, lists flattened."""
    return [leaf for leaf in leaves(arguments) if isinstance(leaf, fx.Node) and is_tensor(leaf)]
