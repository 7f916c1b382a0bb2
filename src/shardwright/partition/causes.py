"""Why a collective is there: which layouts met, and the plan entry that forced them."""

from collections.abc import Mapping

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step, Value
from shardwright.layout import REPLICATE, Layout, Partial, Shard
from shardwright.program import module_path, op_name


def explain(
    assignment: Assignment, value: Value, source: Layout, target: Layout, reader: Step, plan_keys: Mapping[str, str]
) -> tuple[str, str]:
    """(cause in words, plan key) of the reshard of ``value`` from ``source`` to ``target`` for ``reader``."""
    maker = assignment.steps.items[value[0]]
    made, key = _why_made(assignment, maker, source, plan_keys)
    wanted, reader_key = _why_wanted(assignment, reader, value, target, plan_keys)
    return f"{made}; {wanted}", key or reader_key


def _why_made(
    assignment: Assignment, maker: Step, source: Layout, plan_keys: Mapping[str, str]
) -> tuple[str, str]:
    weight, key = _weight_behind(assignment, maker, plan_keys)
    entry = f" (plan entry {key!r})" if key else ""
    if maker.kind == "input":
        return f"{maker.node.name} is stored as {source}{entry}", key
    verb = "gives" if not isinstance(source, Partial) else "sums over its cut dim and gives"
    because = f" because {weight} is {assignment.layouts[weight]}{entry}" if weight else entry
    return f"{op_name(maker.node.target)} {verb} {source}{because}", key


def _why_wanted(
    assignment: Assignment, reader: Step, value: Value, target: Layout, plan_keys: Mapping[str, str]
) -> tuple[str, str]:
    if reader.kind == "output":
        return f"output {reader.output} is {target}", ""
    if reader.kind == "constraint":
        return f"plan entry {reader.key!r} pins it to {target}", reader.key
    place = f"{op_name(reader.node.target)} in {module_path(reader.node) or 'the root module'!r}"
    rule = assignment.rules[reader.index]
    strategy = assignment.strategies[reader.index]
    if rule is None:
        return f"{place} has no rule and runs whole", ""
    if strategy is not None and not strategy.cuts and target == REPLICATE:
        return f"{place} runs whole", ""
    weight, key = _weight_behind(assignment, reader, plan_keys, depth=0)
    entry = f" (plan entry {key!r})" if key else ""
    return f"{place} wants {target}" + (f" as {weight} is {assignment.layouts[weight]}{entry}" if weight else ""), key


def _weight_behind(
    assignment: Assignment, step: Step, plan_keys: Mapping[str, str], *, depth: int = 12
) -> tuple[str, str]:
    """The nearest cut weight upstream of a step, a pinned one if there is one as near."""
    level, seen = [step], {step.index}
    for _ in range(depth + 1):
        found = []
        following = []
        for one in level:
            for read, _ in one.reads:
                if read in seen:
                    continue
                seen.add(read)
                maker = assignment.steps.items[read]
                if maker.kind == "input" and isinstance(assignment.layouts.get(maker.node.name), Shard):
                    found.append(maker.node.name)
                strategy = assignment.strategies[read]
                if strategy is not None and any(layout != REPLICATE for layout in strategy.results):
                    following.append(maker)
        if found:
            best = next((name for name in found if name in plan_keys), found[0])
            return best, plan_keys.get(best, "")
        level = following
    return "", ""
