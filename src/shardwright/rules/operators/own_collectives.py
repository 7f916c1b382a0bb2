"""The compiler's own collectives on another axis, when a program that was cut once is cut again."""

from typing import Any

from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Rule, Term


def keeps_dims(*fixed_arguments: str) -> Entry:
    """Every dim passes but the ones the collective works along; linear unless it takes a maximum."""

    def build(call: Call) -> Rule:
        size = call.operands[0].shape
        fixed = {call[name] for name in fixed_arguments}
        source = tuple(Term((f"d{i}",)) if i not in fixed else Term((f"own{i}",)) for i in range(len(size)))
        target = tuple(Term((f"d{i}",)) if i not in fixed else Term((f"other{i}",)) for i in range(len(size)))
        sizes: dict[str, Any] = {}
        for terms, shape in ((source, size), (target, call.result.shape)):
            sizes.update((term.factors[0], length) for term, length in zip(terms, shape, strict=True))
        kept = frozenset(name for name in sizes if not name.startswith("d"))
        is_linear = call.arguments.get("op", "sum") in ("sum", "avg")
        return Rule((source,), (target,), sizes, kept, linear=(frozenset({0}),) if is_linear else ())

    return Entry(build)


RULES: dict[str, Entry] = {
    "shardwright::all_gather": keeps_dims("dim"),
    "shardwright::all_reduce": keeps_dims(),
    "shardwright::all_to_all": keeps_dims("dim", "new_dim"),
    "shardwright::reduce_scatter": keeps_dims("dim"),
}
