"""Check what a user passes against what the program was exported with, before anything runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree

from shardwright.errors import Finding, InputError, raise_findings
from shardwright.program import Program
from shardwright.simulate import flat_inputs


def check_inputs(program: Program, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Raise one `InputError` naming every input of the wrong structure, rank, size or dtype."""
    expected = program.user_inputs()
    spec = program.source.call_spec.in_spec
    try:
        given = flat_inputs(program, tuple(args), kwargs)
        same = spec is None or pytree.tree_structure((tuple(args), dict(kwargs))).num_leaves == spec.num_leaves
    except (KeyError, ValueError, IndexError):
        given, same = [], False
    if not same or len(given) != len(expected):
        raise InputError(
            f"the program takes {len(expected)} inputs ({', '.join(i.name for i in expected)}), got {len(given)}\n"
            f"  expected structure: {spec}"
        )
    findings = []
    nodes = {node.name: node for node in program.placeholders()}
    for item, value in zip(expected, given, strict=True):
        problem = _mismatch(nodes[item.name].meta.get("val"), value)
        if problem:
            findings.append(Finding(f"input {item.name!r} {problem}"))
    if not findings:
        wanted = [
            (item.name, nodes[item.name].meta.get("val"), value) for item, value in zip(expected, given, strict=True)
        ]
        findings = [Finding(problem) for problem in _sizes_that_disagree(program, wanted)]
    raise_findings(InputError, findings, summary="the inputs do not fit the program")


def _mismatch(wanted: Any, value: Any) -> str:
    if not isinstance(wanted, torch.Tensor):
        return ""
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


def _sizes_that_disagree(program: Program, values: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    """What is wrong with dynamic sizes: outside their range, or not what another input's size makes them."""
    dims = [
        (f"dim {dim} of input {name!r}", size.node.expr, given.shape[dim])
        for name, wanted, given in values
        if isinstance(wanted, torch.Tensor)
        for dim, size in enumerate(wanted.shape)
        if isinstance(size, torch.SymInt)
    ]
    found: dict[Any, tuple[str, int]] = {}
    # Plain symbols first: what they stand for decides all sums and products of them.
    for where, expr, given in sorted(dims, key=lambda entry: not entry[1].is_symbol):
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


def _solved(expr: Any, symbol: Any, given: int) -> int | None:
    """The symbol for which a linear expression is ``given``; -1 when that is no whole number, None for others."""
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
