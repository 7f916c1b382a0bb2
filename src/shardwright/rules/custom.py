"""Rules for a user's own operators, in the same notation as ours: registered, checked and discovered."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from shardwright.errors import Finding, RuleError, first_line, near_misses, raise_findings
from shardwright.layout.reduce import REDUCTIONS
from shardwright.layout.sizes import size_hint
from shardwright.layout.values import check_count, check_list, check_number, is_count
from shardwright.program.nodes import val_of
from shardwright.program.program import Program
from shardwright.program.torch_private import OpOverloadPacket, has_schema, schema_of
from shardwright.rules import REGISTRY
from shardwright.rules.call import make_call, map_values, symbolic_size, tensor_meta
from shardwright.rules.check import check_strategies
from shardwright.rules.discover import REFUSALS, Discovery, discover, is_discoverable
from shardwright.rules.notation import parse
from shardwright.rules.registry import Entry, einsum


def register_rule(
    name: str,
    notation: str,
    *,
    linear: Sequence[Sequence[int]] = (),
    added: Sequence[int] = (),
    reduce: str = "sum",
    size_arg: str | None = None,
) -> None:
    """Say how the factors of an operator lie in its operands and results.

    ``name``: ``"mylib::op"`` (all overloads) or ``"mylib::op.overload"``. ``notation``: as in
    ``"b s d, d! -> b s d"``, tensor arguments in the order of the operator's schema, keyword ones and optional ones
    included. ``linear``: sets of tensor arguments in which the operator is jointly linear, so that partial sums pass;
    absent: none do. ``added``: tensor arguments added to what is summed. ``reduce``: how factors that no result
    carries are reduced. ``size_arg``: the argument that gives the result's shape.
    A rule that the operator has, ours or yours, is replaced.

    Raises `RuleError` when the notation is malformed or the operator does not exist. Check the rule with `check_rule`.

    >>> register_rule("mylib::scale", "b s d, d -> b s d", linear=[[0], [1]])
    """
    check_list(linear, "linear", "[[0], [1]]", error=RuleError)
    for group in (*linear, added):
        check_list(group, "linear's sets and added", "[0, 1]", error=RuleError)
    _check_notation(name, notation, [*linear, added], reduce, size_arg)
    sets = tuple(tuple(group) for group in linear)
    entry = einsum(notation, linear=sets, added=tuple(added), reduce=reduce, size_arg=size_arg)
    REGISTRY.add(name, entry, replace=True)


def _check_notation(name: str, notation: str, operands: Sequence[Any], reduce: str, size_arg: str | None) -> None:
    """Raise one `RuleError` with all that does not fit the operator's own schema."""
    if not isinstance(name, str):
        raise RuleError(f"an operator's name is a string such as 'mylib::op', got {name!r}")
    schema = schema_of(_overload(name))
    pattern = parse(notation)
    given = [argument for argument in schema.arguments if "Tensor" in str(argument.type)]
    returned = [str(one.type) for one in schema.returns if "Tensor" in str(one.type)]
    findings = []
    if not any("[]" in str(argument.type) for argument in given) and len(pattern.operands) != len(given):
        names = ", ".join(argument.name for argument in given)
        findings.append(f"the notation has {len(pattern.operands)} operands, the operator {len(given)} ({names})")
    if not any("[]" in one for one in returned) and len(pattern.results) != len(returned):
        findings.append(f"the notation has {len(pattern.results)} results, the operator {len(returned)}")
    count = len(pattern.operands)
    odd = [one for group in operands for one in group if not is_count(one) or not 0 <= one < count]
    if odd:
        findings.append(f"linear and added number the operands 0 to {count - 1}, got {odd}")
    if not isinstance(reduce, str) or reduce not in REDUCTIONS:
        findings.append(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    known = [argument.name for argument in schema.arguments]
    if size_arg is not None and not (isinstance(size_arg, str) and size_arg in known):
        findings.append(f"size_arg {size_arg!r} is not an argument of the operator: {', '.join(known)}")
    raise_findings(RuleError, [Finding(one) for one in findings], summary=f"the rule of {name!r} does not fit it")


def check_rule(
    op: Any, *args: Any, num_ranks: Sequence[int] = (2, 3, 4), tolerance: float = 1e-5, **kwargs: Any
) -> list[str]:
    """What is wrong with an operator's rule: run every strategy on cut samples and compare with the whole.

    ``op``: an operator overload (``torch.ops.mylib.op.default``) or its name. ``args``, ``kwargs``: sample arguments;
    take sizes that do and do not divide. One sentence a failing strategy; an empty list when all are right. Raises
    `RuleError` when the operator has no rule, or refuses the samples.
    """
    op = _overload(op)
    check_number(tolerance, "tolerance", least=0, error=RuleError)
    for count in check_list(num_ranks, "num_ranks", "(2, 3)", error=RuleError):
        check_count(count, "num_ranks", least=1, error=RuleError)
    entry: Entry | None = REGISTRY.entry(op)
    if entry is None:
        raise RuleError(f"{op} has no rule ({REGISTRY.reason(op)})\n  try: shardwright.register_rule(…)")
    rule = entry.build(make_call(op, args, kwargs, _result(op, args, kwargs)))
    if rule is None:
        raise RuleError(f"the rule of {op} does not cover these arguments; the call runs whole on every rank")
    problems = []
    for count in num_ranks:
        found = check_strategies(rule, op, args, kwargs, num_ranks=count, tolerance=tolerance)
        problems += [f"{count} ranks: {problem}" for problem in found]
    return problems


def discover_rule(op: Any, *args: Any, **kwargs: Any) -> Discovery | None:
    """Propose a rule for an operator by running it on cut samples; nothing is registered.

    ``op``: an operator overload or its name. ``args``, ``kwargs``: sample arguments; take dims of three or more, all
    of different sizes where the operator allows. The result prints as the `register_rule` call to
    paste. None when no dim can be cut. What is found holds for the samples: it is a proposal to be read, not a proof.
    Raises `RuleError` for an operator that is random or changes its arguments, or refuses the samples.

    >>> print(discover_rule("mylib::scale", torch.randn(4, 6), torch.randn(6)))
    register_rule("mylib::scale", "f1 f0, f0 -> f1 f0", linear=[[0], [1]])
    """
    op = _overload(op)
    if not is_discoverable(op):
        raise RuleError(
            f"{op} is random or changes its arguments, so running it on pieces shows nothing\n"
            "  try: write its rule by hand (shardwright.register_rule)"
        )
    _result(op, args, kwargs)
    return discover(op, args, kwargs)


def register_discovered(program: Program) -> list[Discovery]:
    """Discover and register rules for the operators of a program that have none; those that were found, in order.

    Samples are drawn from the program's own shapes, the same on every rank. What is registered stays for the process,
    so a second program does not search again.
    """
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or not has_schema(node.target):
            continue
        if REGISTRY.entry(node.target) is not None or not is_discoverable(node.target):
            continue
        sample = _sample(node, program.fake_mode)
        rule = discover(node.target, *sample) if sample is not None else None
        if rule is not None:
            register_rule(rule.name, rule.notation, **rule.algebra)
            found.append(rule)
    return found


def _sample(node: fx.Node, fake_mode: Any) -> tuple[Any, Any] | None:
    """Arguments of the shapes a node was exported with: floats drawn from a normal distribution, small integers."""
    generator = torch.Generator().manual_seed(0)

    def draw(value: Any) -> Any:
        value = val_of(value)
        if not isinstance(value, torch.Tensor):
            return size_hint(symbolic_size(value), fake_mode) if isinstance(value, torch.SymInt) else value
        # Asking a symbolic size for its number would pin it in the user's program.
        shape = tuple(size_hint(size, fake_mode) for size in tensor_meta(value).shape)
        if value.is_floating_point() or value.is_complex():
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(value.dtype)
        return torch.randint(0, 2, shape, generator=generator).to(value.dtype)

    try:
        args, kwargs = map_values((tuple(node.args), dict(node.kwargs)), draw)
        node.target(*args, **kwargs)  # type: ignore[operator]
    except (*REFUSALS, GuardOnDataDependentSymNode):
        # No sample could be drawn that it takes: it stays without a rule, and is reported so.
        return None
    return args, kwargs


def _operator(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    if not rest:
        raise RuleError(f"{name!r} is not an operator name: write 'namespace::name', as in 'mylib::op'")
    found: Any = getattr(getattr(torch.ops, namespace), packet, None)
    if found is None or (overload and overload not in found.overloads()):
        known: Mapping[str, Any] = vars(getattr(torch.ops, namespace))
        close = near_misses(packet, [key for key in known if not key.startswith("_")])
        hint = f"\n  try: {', '.join(f'{namespace}::{one}' for one in close)}" if close else ""
        raise RuleError(f"there is no operator {name!r}: load the library that defines it first{hint}")
    return getattr(found, overload) if overload else found


def _overload(op: Any) -> Any:
    """An operator's overload, from its name or itself; the first where it is named without one."""
    found = _operator(op) if isinstance(op, str) else op
    if isinstance(found, OpOverloadPacket):
        return getattr(found, found.overloads()[0])
    if not has_schema(found):
        raise RuleError(f"an operator is torch.ops.mylib.op.default or its name, 'mylib::op', got {op!r}")
    return found


def _result(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operator makes of sample arguments."""
    try:
        return op(*args, **kwargs)
    except REFUSALS as cause:
        raise RuleError(f"{op} refuses these sample arguments: {first_line(cause)}") from cause
