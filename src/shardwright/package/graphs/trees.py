"""How inputs and outputs nest, as graph files write it: trees of containers that are registered by name here."""

import functools
import sys
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

TypeName = Annotated[str, Meta(pattern=r"^[\w.<>]{1,400}\Z")]
_FACTORIES = frozenset({"bool", "dict", "float", "int", "list", "set", "str", "tuple"})
_ENUM_KEYS = {"__enum__", "fqn", "name"}


class DefaultContext(Struct, frozen=True, forbid_unknown_fields=True):
    """What a ``defaultdict`` keeps beside its values."""

    default_factory_module: Literal["builtins"]
    default_factory_name: str
    dict_context: list[Any]

    def __post_init__(self) -> None:
        if self.default_factory_name not in _FACTORIES:
            raise ValueError(f"{self.default_factory_name!r} is not a builtin container or number")
        _check_plain(self.dict_context)


class Tree(Struct, frozen=True, forbid_unknown_fields=True):
    """A container: its registered name, what it keeps beside its values, its children. A leaf has none of them."""

    type: TypeName | None
    context: Any
    children_spec: list["Tree"]

    def __post_init__(self) -> None:
        if self.type is None and (self.context is not None or self.children_spec):
            raise ValueError("a leaf holds nothing")
        if self.type == "collections.defaultdict":
            msgspec.convert(self.context, DefaultContext)
            return
        kept = self.keys()
        _check_plain(kept)
        if isinstance(self.context, str) and kept is not self.context:
            force_setattr(self, "context", msgspec.json.encode(kept).decode())

    def keys(self) -> Any:
        """The context as a value: for a dictionary, the list of its keys."""
        if not isinstance(self.context, str):
            return self.context
        try:
            return msgspec.json.decode(self.context)
        except msgspec.DecodeError:
            # A named tuple keeps the bare name of its class; everything else keeps JSON.
            return msgspec.convert(self.context, TypeName)

    def names_arguments(self) -> bool:
        """Whether it is one of a call's arguments whose keyword ones, if any, are names."""
        if self.type != "builtins.tuple" or [child.type for child in self.children_spec[1:]] != ["builtins.dict"]:
            return True
        keys = self.children_spec[1].keys()
        return isinstance(keys, list) and all(isinstance(key, str) and key.isidentifier() for key in keys)


@functools.lru_cache(maxsize=512)
def reformat_tree(text: str, *, of_arguments: bool) -> str:
    """The same tree in our own spelling; raises `ValueError` when it is not valid."""
    try:
        _, tree = found = msgspec.json.decode(text, type=tuple[Literal[1], Tree])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"a nesting of inputs or outputs is not one that a sharded graph has: {error}") from None
    if of_arguments and not tree.names_arguments():
        raise ValueError("a keyword argument has no name that Python knows")
    return msgspec.json.encode(found).decode()


def _check_plain(value: Any) -> None:
    """Plain JSON, whose members of enumerations belong to classes that are loaded already."""
    if isinstance(value, list):
        for one in value:
            _check_plain(one)
    elif isinstance(value, dict):
        if "__enum__" in value:
            _check_member(value)
        for one in value.values():
            _check_plain(one)


def _check_member(value: dict[str, Any]) -> None:
    module, _, path = str(value.get("fqn")).partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    member = isinstance(found, type) and issubclass(found, Enum) and value.get("name") in found.__members__
    if set(value) != _ENUM_KEYS or not member:
        raise ValueError(f"{str(value.get('fqn'))[:100]!r} is not an enumeration that this process has loaded")
