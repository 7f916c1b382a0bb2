"""What is recorded of a collective, and why it is there: which layouts met, and the plan entry that forced them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step, StepKind, Value
from shardwright.layout.layout import REPLICATE, Layout, Partial, Shard
from shardwright.program.collectives import Collective, kind_of
from shardwright.program.nodes import module_path, op_name, source_line
from shardwright.rules.call import num_bytes


@dataclass(frozen=True)
class Names:
    """What placeholders are called: by name, the plan entry that pins it and its FQN."""

    plan_keys: Mapping[str, str]
    targets: Mapping[str, str]


def collective_of(
    node: fx.Node,
    assignment: Assignment,
    value: Value,
    source: Layout,
    target: Layout,
    reader: Step,
    *,
    axis: str,
    names: Names,
) -> Collective:
    """What is recorded of ``node``, which brings ``value`` from layout ``source`` to ``target`` for ``reader``."""
    maker = assignment.steps.items[value[0]]
    whole = maker.vals[value[1]]
    why = _Why(assignment, names.plan_keys, names.targets)
    made, key = why.made(maker, source)
    wanted, reader_key = why.wanted(reader, target)
    place = maker.node if module_path(maker.node) or maker.node.op != "placeholder" else reader.node
    return Collective(
        kind=kind_of(node.target),
        axis=axis,
        num_bytes=num_bytes(whole, assignment.program.fake_mode),
        shape=tuple(size if isinstance(size, int) else str(size) for size in whole.shape),
        module=module_path(place),
        source=source_line(place),
        node=maker.node.name,
        cause=f"{made}; {wanted}",
        plan_key=key or reader_key,
    )


class _Why:
    def __init__(self, assignment: Assignment, plan_keys: Mapping[str, str], targets: Mapping[str, str]) -> None:
        self.assignment, self.plan_keys, self.targets = assignment, plan_keys, targets

    def made(self, maker: Step, source: Layout) -> tuple[str, str]:
        """Why a value is made in its layout, and the plan key behind it."""
        weight, key = self._weight_behind(maker)
        if maker.kind is StepKind.INPUT:
            return f"{self._format(maker.node.name, key)}", key
        because = f", as {self._format(weight, key)}" if weight else ""
        if isinstance(source, Partial):
            return f"{op_name(maker.node.target)} gives partial results{because}", key
        return f"{op_name(maker.node.target)} gives {source}{because}", key

    def wanted(self, reader: Step, target: Layout) -> tuple[str, str]:
        """Why a reader wants the other layout, and the plan key behind it."""
        if reader.kind is StepKind.OUTPUT:
            return f"output {reader.output} is {target}", ""
        if reader.kind is StepKind.CONSTRAINT:
            return f"plan entry {reader.key!r} pins it to {target}", reader.key
        place = f"{op_name(reader.node.target)} in {module_path(reader.node) or 'the root module'!r}"
        if self.assignment.rules[reader.index] is None:
            return f"{place} has no rule and runs whole", ""
        strategy = self.assignment.strategies[reader.index]
        if strategy is not None and not strategy.cuts and target == REPLICATE:
            return f"{place} needs it whole", ""
        weight, key = self._weight_behind(reader, depth=0)
        return f"{place} wants {target}" + (f", as {self._format(weight, key)}" if weight else ""), key

    def _format(self, weight: str, key: str) -> str:
        entry = f" (plan entry {key!r})" if key else ""
        return f"{self.targets.get(weight, weight)} is {self.assignment.layouts[weight]}{entry}"

    def _weight_behind(self, step: Step, *, depth: int = 12) -> tuple[str, str]:
        """The nearest cut weight upstream of a step, a pinned one if there is one as near."""
        level, seen = [step], {step.index}
        for _ in range(depth + 1):
            found, following = [], []
            for one in level:
                for read, _ in one.reads:
                    if read in seen:
                        continue
                    seen.add(read)
                    maker = self.assignment.steps.items[read]
                    if maker.kind is StepKind.INPUT and isinstance(self.assignment.layouts.get(maker.node.name), Shard):
                        found.append(maker.node.name)
                    strategy = self.assignment.strategies[read]
                    if strategy is not None and any(layout != REPLICATE for layout in strategy.results):
                        following.append(maker)
            if found:
                best = next((name for name in found if name in self.plan_keys), found[0])
                return best, self.plan_keys.get(best, "")
            level = following
        return "", ""
