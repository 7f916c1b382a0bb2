"""A budget of collectives, enforced when a program is sharded."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from shardwright.compiler.sharded import ShardedProgram
from shardwright.errors import BudgetError, Finding, ShardwrightError, near_misses, raise_findings
from shardwright.layout.values import check_mapping, is_count
from shardwright.program.collectives import CollectiveKind

KINDS = tuple(map(str, CollectiveKind))


def accept_budget(budget: Any) -> Mapping[str, int] | None:
    """The budget itself; raises `ShardwrightError` naming every entry that is not a kind of collective and a count."""
    if budget is None:
        return None
    findings = []
    for kind, most in check_mapping(budget, "budget", "{'all_reduce': 4}").items():
        if kind not in KINDS:
            close = near_misses(str(kind), KINDS) or KINDS
            findings.append(Finding(f"unknown kind of collective {kind!r}", remedies=tuple(map(repr, close))))
        elif not is_count(most) or most < 0:
            findings.append(Finding(f"the most of {kind!r} must be a whole number of at least 0, got {most!r}"))
    raise_findings(ShardwrightError, findings, summary="the budget cannot be used")
    return budget


def check_budget(sharded: ShardedProgram, budget: Mapping[str, int] | None) -> None:
    """Raise `BudgetError` naming the cause of every collective beyond the budget; no budget allows everything.

    Call `accept_budget` before.
    """
    if budget is None:
        return
    found = sharded.collectives
    counts = Counter(c.kind for c in found)
    findings = [
        Finding(
            f"{c.kind} on axis {c.axis!r} ({counts[c.kind]} in all, the budget allows {budget.get(c.kind, 0)})",
            where=f"{c.node} in {c.module!r}" + (f", {c.source}" if c.source else ""),
            remedies=(f"cause: {c.cause}",),
        )
        for c in found
        if counts[c.kind] > budget.get(c.kind, 0)
    ]
    raise_findings(BudgetError, findings, summary="the program needs more collectives than the budget allows")
