"""Check what a user passes against what the program was exported with, before anything runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
import torch

from shardwright.errors import Finding, InputError, raise_findings
from shardwright.program.nodes import val_of
from shardwright.program.program import Program
from shardwright.program.signature import (
    CallForm,
    Signature,
    bind_parameters,
    call_form,
    other_constants,
    show_value,
)

_Bounds = tuple[float | None, float | None]
"""The least and the most that a symbol may be; None where there is no end."""


@dataclass(frozen=True, slots=True)
class _Dynamic:
    """A size (``dim`` of a tensor) or a number (no dim) that may change from call to call, and what it is called."""

    where: str
    name: str
    dim: int | None
    expr: Any


@dataclass(frozen=True, slots=True)
class ExpectedInputs:
    """What a program takes, worked out once for all of its calls.

    ``names``: the placeholders of its user inputs, in order; ``values``: the metadata of those that are no constants.
    ``dynamic``: what may change, plain symbols first: they decide all sums and products of them. ``bounds``: the least
    and the most of each symbol, None where there is none. ``laws``: what the program asserts of sizes.
    """

    program: Program
    form: CallForm
    names: tuple[str, ...]
    values: Mapping[str, Any]
    dynamic: tuple[_Dynamic, ...]
    bounds: Mapping[Any, _Bounds]
    laws: tuple[Any, ...]


def expected_inputs(program: Program, signature: Signature | None = None) -> ExpectedInputs:
    """What ``program`` takes. ``signature``: how the original is called; absent, as far as the program itself knows."""
    form = call_form(program.source, signature)
    nodes = {node.name: node for node in program.placeholders()}
    names = tuple(item.name for item in program.user_inputs())
    values = {name: nodes[name].meta.get("val") for name in names if name not in form.constants}
    dynamic = sorted(_dynamic(form, values), key=lambda one: (not one.expr.is_symbol, one.dim is None))
    bounds = {symbol: _bounds(found) for symbol, found in program.source.range_constraints.items()}
    return ExpectedInputs(program, form, names, values, tuple(dynamic), bounds, tuple(_laws(program)))


def bind_inputs(
    program: Program, args: Sequence[Any], kwargs: Mapping[str, Any], signature: Signature | None = None
) -> list[Any]:
    """The user inputs in the order of the graph's placeholders, constants of the export among them.

    ``signature``: how the original is called; absent, as far as the program itself knows. Raises one `InputError`
    naming every input that is missing, unknown, of another structure, rank, size or dtype, or not the constant that
    the program was exported with.
    """
    return bind_expected(expected_inputs(program, signature), args, kwargs)


def bind_expected(expected: ExpectedInputs, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """As `bind_inputs`, where many calls are checked against one program."""
    form = expected.form
    given, findings = bind_parameters(form, args, kwargs)
    findings += other_constants(form, given)
    for name, wanted in expected.values.items():
        if name in given and (problem := _mismatch(wanted, given[name])):
            findings.append(Finding(f"input {form.path(name)!r} {problem}"))
    if not findings:
        findings = [Finding(problem) for problem in _sizes_that_disagree(expected, given)]
    raise_findings(InputError, findings, summary="the inputs do not fit the program")
    # torch does not count every constant as one (a member of an enumeration of strings).
    return [form.constants[name] if name in form.constants else given[name] for name in expected.names]


def _mismatch(wanted: Any, value: Any) -> str:
    if not isinstance(wanted, torch.Tensor):
        return _mismatch_of_number(wanted, value)
    if not isinstance(value, torch.Tensor):
        return f"must be a tensor, got {type(value).__name__}"
    if value.dtype != wanted.dtype:
        return f"must have dtype {wanted.dtype}, got {value.dtype}"
    if value.dim() != wanted.dim():
        return f"must have {wanted.dim()} dims {_shape(wanted)}, got {tuple(value.shape)}"
    wrong = [d for d, size in enumerate(wanted.shape) if isinstance(size, int) and size != value.shape[d]]
    if wrong:
        return f"must have shape {_shape(wanted)}, got {tuple(value.shape)}: dim {wrong[0]} differs"
    return ""


def _mismatch_of_number(wanted: Any, value: Any) -> str:
    """What is wrong with a number that may change from call to call."""
    symbolic = ((torch.SymInt, int, "an integer"), (torch.SymFloat, float, "a float"), (torch.SymBool, bool, "a bool"))
    for symbol, kind, words in symbolic:
        if isinstance(wanted, symbol) and type(value) is not kind:
            return f"must be {words}, got {show_value(value)}"
    return ""


def _dynamic(form: CallForm, values: Mapping[str, Any]) -> Iterator[_Dynamic]:
    for name, wanted in values.items():
        if isinstance(wanted, torch.SymInt):
            yield _Dynamic(f"input {form.path(name)!r}", name, None, wanted.node.expr)
        for dim, size in enumerate(wanted.shape if isinstance(wanted, torch.Tensor) else ()):
            if isinstance(size, torch.SymInt):
                yield _Dynamic(f"dim {dim} of input {form.path(name)!r}", name, dim, size.node.expr)


def _laws(program: Program) -> Iterator[Any]:
    for node in program.graph.nodes:
        if node.target is torch.ops.aten._assert_scalar.default:
            asserted = val_of(node.args[0])
            if isinstance(asserted, (torch.SymBool, torch.SymInt, torch.SymFloat)):
                yield asserted.node.expr


def _sizes_that_disagree(expected: ExpectedInputs, values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with dynamic sizes: outside their range, or not what another input's size makes them."""
    found: dict[Any, tuple[str, int]] = {}
    for one in expected.dynamic:
        where, expr = one.where, one.expr
        given = values[one.name] if one.dim is None else values[one.name].shape[one.dim]
        if expr.is_symbol and expr not in found:
            found[expr] = (where, given)
            problem = _out_of_range(expected.bounds, expr, given)
            if problem:
                yield f"{where} {problem}, got {given}"
            continue
        for symbol in expr.free_symbols - found.keys():
            value = _solved(expr, symbol, given)
            if value is not None:
                found[symbol] = (where, value)
                problem = _out_of_range(expected.bounds, symbol, value)
                if problem:
                    yield f"{where} {problem}, got {given}"
        known = {symbol: found[symbol][1] for symbol in expr.free_symbols & found.keys()}
        wanted = sympy.sympify(expr.xreplace(known))
        if not wanted.free_symbols and wanted != given and all(value >= 0 for value in known.values()):
            others = ", ".join(sorted({found[symbol][0] for symbol in known}))
            yield f"{where} must be {wanted} to fit {others}, got {given}"
    yield from _laws_that_are_broken(expected.laws, found)


def _laws_that_are_broken(laws: Sequence[Any], found: Mapping[Any, tuple[str, int]]) -> Iterator[str]:
    """What the program asserts of its inputs' sizes and does not hold: torch's own words would name no input."""
    for law in laws:
        symbols, holds = _test_of(law)
        if all(symbol in found for symbol in symbols) and not holds(*(found[symbol][1] for symbol in symbols)):
            text = str(law.xreplace({symbol: sympy.Symbol(found[symbol][0]) for symbol in symbols}))
            got = ", ".join(f"{where}: {given}" for where, given in sorted(found[symbol] for symbol in symbols))
            yield f"it must hold that {text}; got {got}"


@lru_cache(maxsize=4096)
def _test_of(law: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    """A law's symbols, and whether it holds as a function of their values: sympy takes 0.3 ms a call to say it."""
    symbols = tuple(sorted(law.free_symbols, key=str))
    if law.atoms(sympy.Function):
        # Those of torch's own are none that sympy writes code for.
        return symbols, lambda *sizes: law.xreplace(dict(zip(symbols, sizes, strict=True))) != sympy.false
    return symbols, sympy.lambdify(symbols, law, modules="math")


def _solved(expr: Any, symbol: Any, given: int) -> int | None:
    """The symbol for which a linear expression is ``given``; -1 when that is not a whole number, None for others."""
    if expr == symbol:
        return given
    factor = expr.coeff(symbol)
    rest = expr - factor * symbol
    if factor == 0 or not factor.is_number or not rest.is_number:
        return None
    value = (given - rest) / factor
    return int(value) if value.is_integer else -1


def _bounds(found: Any) -> _Bounds:
    """The ends of a symbol's range as plain numbers, which are compared in no time."""
    least, most = _plain(found.lower), _plain(found.upper)
    # torch writes 2 where it has not looked at 0 and 1, and takes these.
    return (least if least is not None and least > 2 else None), most


def _plain(end: Any) -> float | None:
    if isinstance(end, (int, sympy.Integer)):
        return int(end)
    return float(end) if isinstance(end, (float, sympy.Float, sympy.Rational)) and math.isfinite(end) else None


def _out_of_range(bounds: Mapping[Any, _Bounds], symbol: Any, value: float) -> str:
    least, most = bounds.get(symbol, (None, None))
    if value < 0:
        return "does not divide as it must"
    if least is not None and value < least:
        return f"must be at least {least}"
    return f"must be at most {most}" if most is not None and value > most else ""


def _shape(tensor: torch.Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"
