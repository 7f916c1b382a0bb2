"""A budget of collectives, enforced when a program is sharded."""

from collections import Counter
from collections.abc import Mapping

from shardwright.errors import BudgetError, Finding, ShardwrightError, near_misses, raise_findings
from shardwright.sharded import ShardedProgram

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def check_budget(sharded: ShardedProgram, budget: Mapping[str, int] | None) -> None:
    """Raise `BudgetError` naming the cause of every collective beyond the budget; no budget allows everything."""
    if budget is None:
        return
    for kind in budget:
        if kind not in KINDS:
            close = near_misses(kind, KINDS) or list(KINDS)
            raise ShardwrightError(
                f"budget: unknown kind of collective {kind!r}\n  try: {' or '.join(map(repr, close))}"
            )
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
