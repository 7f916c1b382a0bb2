"""Check what a user passes against what the program was exported with, before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch

from shardwright.errors import Finding, InputError, raise_findings
from shardwright.program.program import Program
from shardwright.program.read import constant_inputs
from shardwright.program.signature import (
    Signature,
    arguments,
    bind_parameters,
    leaf_paths,
    other_constants,
    show_value,
    signature_of,
)


def bind_inputs(
    program: Program, args: Sequence[Any], kwargs: Mapping[str, Any], signature: Signature | None = None
) -> list[Any]:
    """The user inputs in the order of the graph's placeholders, constants of the export among them.

    ``signature``: how the original is called; absent, as far as the program itself knows. Raises one `InputError`
    naming every input that is missing, unknown, of another structure, rank, size or dtype, or not the constant that
    the program was exported with.
    """
    source = program.source
    given, findings = bind_parameters(signature or signature_of(source), source, args, kwargs)
    nodes = {node.name: node for node in program.placeholders()}
    paths = {name: path for one in arguments(source) for name, path in leaf_paths(one).items()}
    fixed = constant_inputs(source)
    wanted = [(item.name, nodes[item.name].meta.get("val")) for item in program.user_inputs() if item.name in given]
    findings += other_constants(source, given)
    for name, val in wanted:
        if name not in fixed and (problem := _mismatch(val, given[name])):
            findings.append(Finding(f"input {paths[name]!r} {problem}"))
    if not findings:
        sizes = [(paths[name], val, given[name]) for name, val in wanted]
        findings = [Finding(problem) for problem in _sizes_that_disagree(program, sizes)]
    raise_findings(InputError, findings, summary="the inputs do not fit the program")
    # torch does not count every constant as one (a member of an enumeration of strings).
    return [fixed.get(item.name, given[item.name]) for item in program.user_inputs()]


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


def _sizes_that_disagree(program: Program, values: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    """What is wrong with dynamic sizes: outside their range, or not what another input's size makes them."""
    dims = [
        (f"dim {dim} of input {name!r}", size.node.expr, given.shape[dim])
        for name, wanted, given in values
        if isinstance(wanted, torch.Tensor)
        for dim, size in enumerate(wanted.shape)
        if isinstance(size, torch.SymInt)
    ]
    dims += [(f"input {name!r}", wanted.node.expr, given) for name, wanted, given in values if _is_symbol(wanted)]
    found: dict[Any, tuple[str, int]] = {}
    # Plain symbols first: what they stand for decides all sums and products of them.
    for where, expr, given in sorted(dims, key=lambda entry: not entry[1].is_symbol):
        if expr.is_symbol and expr not in found:
            found[expr] = (where, given)
            problem = _out_of_range(program, expr, given)
            if problem:
                yield f"{where} {problem}, got {given}"
            continue
        for symbol in expr.free_symbols - found.keys():
            value = _solved(expr, symbol, given)
            if value is not None:
                found[symbol] = (where, value)
                problem = _out_of_range(program, symbol, found[symbol][1])
                if problem:
                    yield f"{where} {problem}, got {given}"
        known = {symbol: found[symbol][1] for symbol in expr.free_symbols & found.keys()}
        wanted = sympy.sympify(expr.xreplace(known))
        if not wanted.free_symbols and wanted != given and all(value >= 0 for value in known.values()):
            others = ", ".join(sorted({found[symbol][0] for symbol in known}))
            yield f"{where} must be {wanted} to fit {others}, got {given}"
    yield from _laws_that_are_broken(program, found)


def _laws_that_are_broken(program: Program, found: Mapping[Any, tuple[str, int]]) -> Iterator[str]:
    """What the program asserts of its inputs' sizes and does not hold: torch's own words would name no input."""
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten._assert_scalar.default or not isinstance(node.args[0], torch.fx.Node):
            continue
        law = node.args[0].meta["val"].node.expr
        if law.free_symbols <= found.keys() and law.xreplace({s: found[s][1] for s in law.free_symbols}) == sympy.false:
            text = str(law.xreplace({symbol: sympy.Symbol(found[symbol][0]) for symbol in law.free_symbols}))
            got = ", ".join(f"{where}: {given}" for where, given in sorted(found[s] for s in law.free_symbols))
            yield f"it must hold that {text}; got {got}"


def _is_symbol(wanted: Any) -> bool:
    return isinstance(wanted, torch.SymInt)


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


def _out_of_range(program: Program, symbol: Any, value: int) -> str:
    bounds = program.source.range_constraints.get(symbol)
    if value < 0:
        return "does not divide as it must"
    if bounds is None:
        return ""
    # torch writes 2 where it has not looked at 0 and 1, and takes these.
    if bounds.lower > 2 and value < bounds.lower:
        return f"must be at least {bounds.lower}"
    return f"must be at most {bounds.upper}" if value > bounds.upper else ""


def _shape(tensor: torch.Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"
