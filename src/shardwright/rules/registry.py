"""The registry: from an operator to its rule. The only global mutable state of the compiler.

Every family module holds one alphabetical ``RULES`` table: operator name (``"aten::linear"``, all overloads, or
``"aten::add.Tensor"``, one) → `Entry`. An entry is a line of notation with its algebra (`einsum`), or a builder for
operators whose rule depends on argument values. ``UNSUPPORTED`` tables name operators known to have no rule, and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch

from shardwright.errors import RuleError
from shardwright.layout.sizes import Size
from shardwright.program.torch_private import has_schema, schema_of
from shardwright.rules.aliases import own_name, own_op
from shardwright.rules.notation import Bound, bind_shapes, parse
from shardwright.rules.rule import Call, Localizer, RowGroups, Rule, TensorMeta

Builder = Callable[[Call], Rule | None]
"""Makes the rule of one call; None when this call cannot be cut."""


@dataclass(frozen=True, slots=True)
class Entry:
    """How an operator gets its rule: ``build`` for a call, and the notation where it is one line."""

    build: Builder
    notation: str = ""


def einsum(
    notation: str,
    *,
    multilinear: bool = False,
    linear: tuple[tuple[int, ...], ...] = (),
    added: tuple[int, ...] = (),
    reduce: str = "sum",
    moves: bool = False,
    multiplies: tuple[tuple[str, ...], ...] | None = None,
    size_arg: str | None = None,
    localize: Localizer | None = None,
) -> Entry:
    """An entry in notation. Operand numbers count the schema's tensor arguments, absent ones included.

    ``multilinear``: linear in each operand that is not ``added``, together with the added ones (a matmul with a bias).
    ``linear``: explicit sets of operands in which the call is jointly linear.
    ``added``: operands added to the sum over the contracted factors.
    ``multiplies``: see `Rule`.
    ``reduce``: how factors absent from the results are reduced.
    """
    pattern = parse(notation)
    sets = tuple(frozenset(group) for group in linear)
    if multilinear:
        sets += tuple(frozenset((i, *added)) for i in range(len(pattern.operands)) if i not in added)

    def build(call: Call) -> Rule | None:
        slots = tensor_slots(call)
        present = [index for index, slot in enumerate(slots) if slot is not None]
        results = [r.shape for r in call.results if r is not None]
        bound = bind_shapes(pattern, [None if slot is None else slot.shape for slot in slots], results, loose=added)
        renumber = {old: new for new, old in enumerate(present)}

        def keep(group: frozenset[int]) -> frozenset[int]:
            return frozenset(renumber[i] for i in group if i in renumber)

        return rule_of(
            bound,
            linear=tuple(dict.fromkeys(kept for group in sets if (kept := keep(group)))),
            added=keep(frozenset(added)),
            reduce=reduce,
            moves=moves,
            multiplies=multiplies,
            size_arg=size_arg,
            localize=localize,
        )

    return Entry(build, notation)


class Algebra(TypedDict, total=False):
    """What a rule says besides its dims; the fields of `Rule` of these names."""

    added: frozenset[int]
    independent: frozenset[int]
    is_written_out: bool
    linear: tuple[frozenset[int], ...]
    localize: Localizer | None
    localize_whole: bool
    moves: bool
    multiplies: tuple[tuple[str, ...], ...] | None
    row_groups: RowGroups | None
    scattered: frozenset[int]
    size_arg: str | None


class ReducedAlgebra(Algebra, total=False):
    """With what `rule_of` makes of factors that no result carries."""

    dropped: tuple[str, ...]
    fixed: tuple[str, ...]
    joint: tuple[tuple[str, ...], ...]
    reduce: str


def rule_of(
    bound: Bound,
    *,
    reduce: str = "sum",
    joint: tuple[tuple[str, ...], ...] = (),
    fixed: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
    **algebra: Unpack[Algebra],
) -> Rule:
    """A rule from a bound pattern: factors that no result carries are reduced by ``reduce``, unless ``dropped``."""
    carried = {name for dims in bound.results for term in dims for name in term.factors}
    sums = {term.factors for dims in bound.operands + bound.results for term in dims if term.is_sum}
    return Rule(
        operands=bound.operands,
        results=bound.results,
        sizes=bound.sizes,
        fixed=bound.fixed | set(fixed),
        joint=joint or tuple(sorted(sums)),
        reduces={name: reduce for name in bound.sizes if name not in carried and name not in dropped},
        dropped=frozenset(dropped),
        **algebra,
    )


def notation_rule(
    text: str,
    operands: list[tuple[Size, ...]],
    results: list[tuple[Size, ...]],
    **algebra: Unpack[ReducedAlgebra],
) -> Rule:
    """The rule of a line of notation for given shapes: what builders use once they have written their call so."""
    return rule_of(bind_shapes(parse(text), operands, results), **algebra)


def tensor_slots(call: Call) -> list[TensorMeta | None]:
    """The call's tensor arguments in schema order: None where an optional one is absent."""
    return [
        value if isinstance(value, TensorMeta) else None
        for argument in schema_of(call.op).arguments
        if "Tensor" in str(argument.type)
        for value in [call.arguments.get(argument.name)]
    ]


_TAGGED = (
    (
        torch.Tag.nondeterministic_seeded,
        "it draws random numbers: every rank draws all of them, so seed all ranks alike (torch.manual_seed)",
    ),
    (torch.Tag.dynamic_output_shape, "the shape of its result is not known before the program runs"),
    (torch.Tag.data_dependent_output, "its result is a number that is not known before the program runs"),
)
"""Why operators with these tags have no rule."""


class Registry:
    """Entries by operator name, each name once."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._unsupported: dict[str, str] = {}
        self._fallbacks: list[Callable[[Any], Entry | None]] = []

    def add(self, name: str, entry: Entry, *, replace: bool = False) -> None:
        """Register an entry under ``"namespace::name"`` (all overloads) or ``"namespace::name.overload"``.

        An alias (see `rules.aliases`) stands for the operator it names. Raises `RuleError` for a name that has an
        entry, unless it is to be replaced.
        """
        if "::" not in name:
            raise RuleError(f"{name!r} is not an operator name: write 'namespace::name', as in 'aten::linear'")
        name = own_name(name)
        if name in self._entries and not replace:
            raise RuleError(f"{name!r} has a rule already: two tables name it, and one of them would never be used")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Forget an entry; raises KeyError for a name that has none."""
        del self._entries[own_name(name)]

    def entry_named(self, name: str) -> Entry | None:
        """The entry registered under exactly this name."""
        return self._entries.get(own_name(name))

    def add_table(self, table: Mapping[str, Entry], unsupported: Mapping[str, str] | None = None) -> None:
        """Register a family's table, and the operators it knows to have no rule.

        Raises `RuleError` for a name that another table has.
        """
        for name, entry in table.items():
            self.add(name, entry)
        for name, reason in (unsupported or {}).items():
            name = own_name(name)
            if name in self._entries or name in self._unsupported:
                raise RuleError(f"{name!r} is said to have no rule, but another table names it too")
            self._unsupported[name] = reason

    def add_fallback(self, find: Callable[[Any], Entry | None]) -> None:
        """Register a function that finds entries for operators without one of their own (by tag, say)."""
        self._fallbacks.append(find)

    def entry(self, op: Any) -> Entry | None:
        """The entry of an operator overload: its own, its packet's, or a fallback's; None when there is none."""
        names = op_names(op)
        for name in names:
            if name in self._entries:
                return self._entries[name]
        if any(name in self._unsupported for name in names):
            return None
        return next((entry for find in self._fallbacks if (entry := find(own_op(op))) is not None), None)

    def reason(self, op: Any) -> str:
        """Why an operator has no rule."""
        named = next((self._unsupported[n] for n in op_names(op) if n in self._unsupported), None)
        by_tag = (why for tag, why in _TAGGED if tag in getattr(own_op(op), "tags", ()))
        return named or next(by_tag, "no rule is registered")

    def names(self) -> list[str]:
        """Every registered operator name, sorted."""
        return sorted(self._entries)


def op_names(op: Any) -> list[str]:
    """The names an operator may be registered under, most specific first; of an alias, those of what it names."""
    op = own_op(op)
    if not has_schema(op):
        return [f"shardwright::{getattr(op, '__name__', str(op))}"]
    packet, overload = schema_of(op).name, schema_of(op).overload_name or "default"
    return [f"{packet}.{overload}", packet]
