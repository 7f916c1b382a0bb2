"""Named tuples that a program takes or gives: torch writes them to files once they are registered, which few are.

They are registered under where they are defined, when a program is written, and again when it is read where their
module is imported. Nothing is imported for it: what a file names runs no code.
"""

import sys
from collections.abc import Iterable
from typing import Any

from torch.export import ExportedProgram

from shardwright.program.torch_private import name_class, pytree


def register_written(exported: ExportedProgram) -> None:
    """Register the named tuples of a program that is to be written."""
    left = [exported.call_spec.in_spec, exported.call_spec.out_spec]
    while left:
        spec = left.pop()
        if spec is None:
            continue
        left += spec.children()
        kind = spec.context
        if (
            isinstance(kind, type)
            and pytree.is_namedtuple_class(kind)
            and kind not in pytree.SUPPORTED_SERIALIZED_TYPES
        ):
            name_class(kind, _name(kind))


def register_read(names: Iterable[str]) -> None:
    """Register the named tuples of these names that are defined in imported modules."""
    for name in names:
        kind = None if name in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE else _defined(name)
        if kind is not None:
            name_class(kind, name)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _defined(name: str) -> Any:
    """The named tuple that an imported module defines under this name; None for none."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:count]))
        if found is None:
            continue
        for part in parts[count:]:
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        is_it = isinstance(found, type) and pytree.is_namedtuple_class(found) and _name(found) == name
        return found if is_it else None
    return None
