"""What is recorded of a collective, and why it is there: which layouts met, and the plan entry that forced them."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step, StepKind, Value
from shardwright.layout.layout import REPLICATE, Layout, Partial, Shard
from shardwright.program.collectives import Collective, kind_of
from shardwright.program.nodes import module_path, op_name, source_line
from shardwright.rules.call import num_bytes

_REACH = 12
"""How many steps above a value the weight is looked for that gave it its layout."""

_Above = tuple[int, tuple[str, ...]]
"""The names of weights, and how many steps above a step they are."""

_NONE: _Above = (0, ())


class Causes:
    """What collectives along an axis are recorded as. ``plan_keys``: placeholder → plan entry; ``targets``: → FQN."""

    def __init__(
        self, assignment: Assignment, axis: str, plan_keys: Mapping[str, str], targets: Mapping[str, str]
    ) -> None:
        self.assignment, self.axis, self.plan_keys, self.targets = assignment, axis, plan_keys, targets

    def of(self, node: fx.Node, value: Value, source: Layout, target: Layout, reader: Step) -> Collective:
        """What is recorded of ``node``, which brings ``value`` from layout ``source`` to ``target`` for ``reader``."""
        maker = self.assignment.steps.items[value[0]]
        whole = maker.vals[value[1]]
        made, key = self.made(maker, source)
        wanted, reader_key = self.wanted(reader, target)
        place = maker.node if module_path(maker.node) or maker.node.op != "placeholder" else reader.node
        return Collective(
            kind=kind_of(node.target),
            axis=self.axis,
            num_bytes=num_bytes(whole, self.assignment.program.fake_mode),
            shape=tuple(size if isinstance(size, int) else str(size) for size in whole.shape),
            module=module_path(place),
            source=source_line(place),
            node=maker.node.name,
            cause=f"{made}; {wanted}",
            plan_key=key or reader_key,
        )

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
        weight, key = self._weight_behind(reader, reach=0)
        return f"{place} wants {target}" + (f", as {self._format(weight, key)}" if weight else ""), key

    def _format(self, weight: str, key: str) -> str:
        entry = f" (plan entry {key!r})" if key else ""
        return f"{self.targets.get(weight, weight)} is {self.assignment.layouts[weight]}{entry}"

    def _weight_behind(self, step: Step, *, reach: int = _REACH) -> tuple[str, str]:
        """The nearest cut weight above a step, a pinned one if there is one as near, and its plan key."""
        distance, names = self._nearest[step.index]
        if not names or distance > reach:
            return "", ""
        best = next((name for name in names if name in self.plan_keys), names[0])
        return best, self.plan_keys.get(best, "")

    @cached_property
    def _nearest(self) -> list[_Above]:
        """For every step, the cut weights that are nearest above it, and how many steps lie between."""
        found: list[_Above] = []
        shown: list[_Above] = []
        """What readers of a step find through it: nothing where what it makes is whole."""
        for step in self.assignment.steps.items:
            nearest = _least([shown[read] for read, _ in step.reads])
            found.append(nearest)
            if self._is_cut_weight(step):
                shown.append((0, (step.node.name,)))
            elif nearest[1] and nearest[0] < _REACH and self._is_cut(step):
                shown.append((nearest[0] + 1, nearest[1]))
            else:
                shown.append(_NONE)
        return found

    def _is_cut_weight(self, step: Step) -> bool:
        return step.kind is StepKind.INPUT and isinstance(self.assignment.layouts.get(step.node.name), Shard)

    def _is_cut(self, step: Step) -> bool:
        strategy = self.assignment.strategies[step.index]
        return strategy is not None and any(layout != REPLICATE for layout in strategy.results)


def _least(above: Sequence[_Above]) -> _Above:
    """Those that are nearest, in order."""
    some = [one for one in above if one[1]]
    if len(some) < 2:
        return some[0] if some else _NONE
    distance = min(steps for steps, _ in some)
    return distance, tuple(dict.fromkeys(name for steps, names in some if steps == distance for name in names))
