"""Look through a graph file before torch reads it, and refuse whatever a sharded graph does not hold.

An archive that torch reads unscreened can run code. So nothing reaches it that is not known to be harmless: operators
from registered namespaces, arithmetic, sizes made of known functions of symbols and numbers, guards that compare sizes.
"""

import ast
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from shardwright.errors import PackageError

_NAME = r"(?!__)[A-Za-z_][A-Za-z0-9_]*"
_BITWISE = r"__i?(and|or|xor|lshift|rshift)__"
_OPERATOR = re.compile(rf"torch\.ops\.{_NAME}\.({_NAME}|{_BITWISE})(\.{_NAME})?")
_ARITHMETIC = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(float|int|max|min|not|sqrt|sum|ite|fresh_size)|math\.(ceil|floor|trunc|sqrt|pow)"
)
_FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Abs|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Piecewise|ExprCondPair|Identity|FloorDiv|CeilDiv|CleanDiv"
    r"|IntTrueDiv|FloatTrueDiv|PythonMod|ModularIndexing|Where|ToFloat|TruncToInt|TruncToFloat|CeilToInt|FloorToInt"
    r"|RoundToInt|RoundDecimal|PowByNatural|FloatPow|LShift|RShift|IsNonOverlappingAndDenseIndicator"
)
_VALUES = frozenset({"true", "false", "True", "False", "oo", "int_oo"})
_NODES = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_MAX_DEPTH = 200
_MAX_EXPRESSION = 10_000
_MAX_UNPACKED = 2**31


def screen_graph(data: bytes, name: str) -> None:
    """Raise `PackageError` unless a ``.pt2`` archive holds a graph alone, and nothing in it could be executed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_sizes(archive, name)
            models = 0
            for info in archive.infolist():
                if info.filename.endswith("_config.json"):
                    _check_tensors(json.loads(archive.read(info)), name)
                elif re.search(r"/models/[^/]*\.json$", info.filename):
                    _check_model(json.loads(archive.read(info)), name)
                    models += 1
                elif info.filename.endswith((".pt", ".so", ".cpp", ".py")) and info.file_size:
                    raise PackageError(f"{name} holds {info.filename}, which is never opened")
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        if isinstance(error, PackageError):
            raise
        raise PackageError(f"{name} is no graph of a package: {error}") from error
    except RecursionError as error:
        raise PackageError(f"{name} is no graph of a package: it is nested too deeply") from error
    if models != 1:
        raise PackageError(f"{name} is no graph of a package: it holds {models} programs")


def _check_sizes(archive: zipfile.ZipFile, name: str) -> None:
    """A few bytes can claim to unpack to terabytes: the sizes are looked at before anything is unpacked."""
    total = sum(info.file_size for info in archive.infolist())
    if total > _MAX_UNPACKED:
        raise PackageError(f"{name} would unpack to {total} bytes, which no graph without weights does")


def _check_tensors(config: Any, name: str) -> None:
    pickled = [key for key, entry in config["config"].items() if entry.get("use_pickle") is not False]
    if pickled:
        raise PackageError(f"{name} holds pickled tensors {pickled}, which are never opened")


def _check_model(model: Any, name: str) -> None:
    for guard in model.get("guards_code") or []:
        _refuse(name, "an input guard", guard, harmless=isinstance(guard, str) and is_guard(guard))
    for key, value in _items(model):
        if key == "target" and isinstance(value, str):
            known = _OPERATOR.fullmatch(value) or _ARITHMETIC.fullmatch(value)
            _refuse(name, "the operator", value, harmless=bool(known))
        elif key in ("expr_str", "as_expr") and isinstance(value, str):
            _refuse(name, "the size", value, harmless=is_size(value))
        elif key in ("as_graph", "as_custom_obj", "as_operator") and value is not None:
            _refuse(name, "an argument", key, harmless=key == "as_graph")


def _refuse(name: str, what: str, text: Any, *, harmless: bool) -> None:
    if not harmless:
        raise PackageError(
            f"{name} holds {what} {str(text)[:100]!r}, which a sharded graph never does; the file was not opened"
        )


def _items(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested JSON."""
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _items(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner, depth + 1)


def is_size(text: str) -> bool:
    """Whether a text is a sum, product … of known functions, symbols and numbers, so that evaluating it is harmless."""
    tree = _parse(text)
    if tree is None:
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and _FUNCTION.fullmatch(node.func.id)):
            return False
        if isinstance(node, ast.Name) and id(node) not in called and not _is_symbol(node.id):
            return False
        if isinstance(node, ast.Constant) and not _is_plain(node.value):
            return False
    return True


def _is_symbol(text: str) -> bool:
    return text in _VALUES or re.fullmatch(r"[suz][a-z]*\d+", text) is not None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_]+", value) is not None and "__" not in value
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**64)


def is_guard(text: str) -> bool:
    """Whether an input guard only compares sizes: names, subscripts, ``.size()`` and numbers."""
    tree = _parse(text.partition("#")[0].strip())
    if tree is None:
        return False
    allowed = (*_NODES, ast.BoolOp, ast.And, ast.Or, ast.Not, ast.Subscript, ast.Attribute, ast.Tuple)
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in ("size", "args", "kwargs", "shape"):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Attribute) and node.func.attr == "size"):
            return False
        if isinstance(node, ast.Name) and "__" in node.id:
            return False
        if isinstance(node, ast.Constant) and not _is_plain(node.value):
            return False
    return True


def _parse(text: str) -> ast.Expression | None:
    if len(text) > _MAX_EXPRESSION:
        return None
    try:
        return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
