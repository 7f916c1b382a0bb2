"""Symbolic sizes as graph files write them: a small grammar, read by a parser of our own and written anew.

::

    size   = name "(" [size {"," size}] ")"        name: one of FUNCTION
           | "Symbol(" quoted {"," assumption "=" ("True" | "False")} ")"
           | "Integer(" whole ")" | "Rational(" whole "," whole ")" | "Float(" quoted "," "precision" "=" whole ")"
           | "true" | "false" | "oo" | "int_oo"
"""

import functools
import re

SYMBOL = r"(?:s\d{1,9}|u\d{1,5}|zf\d{1,5}|zuf\d{1,5})"
"""Names of sizes: given from outside, or (``u``, ``zuf``) found by running. torch counts up to the number in a name."""

RANGED = rf"^({SYMBOL}|(?![uz])[\w *+/(),-]{{1,200}})\Z"
"""What torch notes a range for: a symbol, or a size made of some, as text that is only compared."""

FUNCTION = re.compile(
    r"Abs|Add|And|CeilDiv|CeilToInt|CleanDiv|Eq|Equality|ExprCondPair|FloatPow|FloatTrueDiv|FloorDiv|FloorToInt|Ge"
    r"|GreaterThan|Gt|Identity|IntTrueDiv|IsNonOverlappingAndDenseIndicator|LShift|Le|LessThan|Lt|Max|Min|Mod"
    r"|ModularIndexing|Mul|Ne|Not|Or|Piecewise|Pow|PowByNatural|PythonMod|RShift|RoundDecimal|RoundToInt"
    r"|StrictGreaterThan|StrictLessThan|ToFloat|TruncToFloat|TruncToInt|Unequality|Where"
    r"|OpaqueUnaryFn_(?:a?cos|a?sin|a?tan|cosh|sinh|tanh|asinh|exp|log|log2|sqrt)"
)
_VALUES = frozenset({"true", "false", "oo", "int_oo"})
_ASSUMPTIONS = frozenset({"integer", "positive", "nonnegative", "negative", "nonzero", "real", "finite", "rational"})
_GROWING = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<whole>-?\d{1,20})|(?P<quoted>'[^'\\\n]{1,400}')|(?P<mark>[(),=]))"
)
_NUMBER = re.compile(
    r"(?:Integer\(|Rational\(|Float\(')(-?[0-9.]+(?:e[+-]?[0-9]{1,3})?)(?:'?, (?:precision=)?-?\d+)?\)"
)
_MAX_LENGTH = 10_000
_MAX_DEPTH = 60
_MAX_EXPONENT = 64


@functools.lru_cache(maxsize=4096)
def reformat_size(text: str) -> str:
    """The same size in our own spelling; raises `ValueError` when it is not valid."""
    try:
        return _Parser(text).whole_text()
    except _UnknownError as error:
        raise ValueError(f"the size {text[:100]!r} is not one that a sharded graph holds: {error}") from None


class _UnknownError(Exception):
    """What the grammar does not know."""


class _Parser:
    """One pass over the tokens; every method reads one rule and returns its spelling."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0
        self._growing = 0

    def whole_text(self) -> str:
        found = self._size()
        if self._at != len(self._tokens):
            raise _UnknownError(f"{self._tokens[self._at][1]!r} follows its end")
        return found

    def _next(self, kind: str, value: str = "") -> str:
        if self._at == len(self._tokens):
            raise _UnknownError("it ends too early")
        found_kind, found = self._tokens[self._at]
        if found_kind != kind or (value and found != value):
            raise _UnknownError(f"{found!r} stands where {value or 'a ' + kind} belongs")
        self._at += 1
        return found

    def _takes(self, mark: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("mark", mark):
            self._at += 1
            return True
        return False

    def _size(self) -> str:
        name = self._next("name")
        if name in _VALUES:
            return name
        self._next("mark", "(")
        found = self._leaf(name) if name in ("Symbol", "Integer", "Rational", "Float") else self._call(name)
        self._next("mark", ")")
        return found

    def _leaf(self, name: str) -> str:
        if name == "Symbol":
            return self._symbol()
        if name == "Integer":
            return f"Integer({self._whole()})"
        if name == "Rational":
            above = self._whole()
            self._next("mark", ",")
            return f"Rational({above}, {self._whole()})"
        digits = self._next("quoted").strip("'")
        if not re.fullmatch(r"-?[0-9]{0,400}[.]?[0-9]{1,400}(e[+-]?[0-9]{1,3})?", digits):
            raise _UnknownError(f"{digits!r} is not a number")
        self._next("mark", ",")
        self._next("name", "precision")
        self._next("mark", "=")
        return f"Float('{digits}', precision={min(abs(int(self._whole())), 1000)})"

    def _whole(self) -> str:
        return str(int(self._next("whole")))

    def _symbol(self) -> str:
        name = self._next("quoted").strip("'")
        if not re.fullmatch(SYMBOL, name):
            raise _UnknownError(f"{name!r} is not the name of a size")
        facts = []
        while self._takes(","):
            fact = self._next("name")
            self._next("mark", "=")
            value = self._next("name")
            if fact not in _ASSUMPTIONS or value not in ("True", "False"):
                raise _UnknownError(f"a symbol is not {fact}={value}")
            facts.append(f", {fact}={value}")
        return f"Symbol('{name}'{''.join(facts)})"

    def _call(self, name: str) -> str:
        if not FUNCTION.fullmatch(name):
            raise _UnknownError(f"it uses {name!r}")
        self._depth += 1
        self._growing += name in _GROWING
        # Powers of powers are small on paper and fill any memory.
        if self._depth > _MAX_DEPTH or self._growing > 1:
            raise _UnknownError("it is nested too deeply")
        given = [] if self._tokens[self._at : self._at + 1] == [("mark", ")")] else [self._size()]
        while self._takes(","):
            given.append(self._size())
        if name in _GROWING and not _is_small(given):
            raise _UnknownError(f"{name} of {', '.join(given)[:60]} is too large")
        self._depth -= 1
        self._growing -= name in _GROWING
        return f"{name}({', '.join(given)})"


def _is_small(given: list[str]) -> bool:
    """Whether a power's exponent is a small number; a size may be one too, of a small base."""
    if len(given) != 2:
        return False
    base, exponent = (_NUMBER.fullmatch(one) for one in given)
    number = exponent or (base if "Symbol" in given[1] else None)
    return number is not None and abs(float(number[1])) <= _MAX_EXPONENT


def _tokens(text: str) -> list[tuple[str, str]]:
    if len(text) > _MAX_LENGTH:
        raise _UnknownError(f"it has {len(text)} characters")
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _UnknownError(f"{text[at : at + 10]!r} is not part of one")
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        at = match.end()
    return found
