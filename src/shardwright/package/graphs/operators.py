"""Which operators a graph file may name: those of registered operator libraries, a few that take graphs, arithmetic."""

import functools
import re

from shardwright.program.operator_libraries import import_library, library_of
from shardwright.program.torch_private import registered_schema

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_OPERATOR = re.compile(rf"torch\.ops\.({_NAME})\.({_NAME})(?:\.({_NAME}))?")
_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|lshift|rshift)"
    r"|torch\.sym_(float|int|max|min|not|sqrt|ite)|math\.(ceil|floor|trunc)"
)
_OF_GRAPHS = re.compile(
    r"associative_scan|auto_functionalized|auto_functionalized_v2|cond|flex_attention|invoke_subgraph|map|map_impl"
    r"|out_dtype|scan|tag_activation_checkpoint|while_loop|while_loop_stack_output|wrap|wrap_with_autocast"
    r"|wrap_with_set_grad_enabled"
)


@functools.lru_cache(maxsize=4096)
def check_operator(target: str) -> None:
    """Raise `ValueError` unless a graph's node may call ``target``."""
    if _ARITHMETIC.fullmatch(target):
        return
    match = _OPERATOR.fullmatch(target)
    if match is None:
        raise ValueError(f"the operator {target[:100]!r} is not one that a sharded graph calls")
    namespace, name, overload = match.groups()
    if namespace == "higher_order":
        if overload or not _OF_GRAPHS.fullmatch(name):
            raise ValueError(f"the operator {target[:100]!r} is not one that a sharded graph calls")
        return
    _check_registered(namespace, name, overload)


def _check_registered(namespace: str, name: str, overload: str | None) -> None:
    """Raise `ValueError` unless the dispatcher has the operator and it takes no name of a file."""
    qualified = f"{namespace}::{name}"
    named = "" if overload in (None, "default") else overload
    schema = registered_schema(qualified, named)
    if schema is None and import_library(namespace):
        schema = registered_schema(qualified, named)
    if schema is None:
        library = library_of(namespace)
        raise ValueError(
            f"the operator {qualified}.{overload or 'default'} is not registered in this process"
            f" ({f'install {library}' if library else 'import the library that defines it'})"
        )
    if any(re.search("file|path", arg.name) and "str" in str(arg.type) for arg in schema.arguments):
        raise ValueError(f"the operator {qualified} opens files, which a sharded graph never does")
