"""One rank's choices for another rank's program: the same layouts, written in that program's own factors.

After an axis is cut, the ranks' programs differ in constants (where a slice starts), and with them in what the factors
of a rule are. Layouts are what the ranks must agree on, so that their collectives meet.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.assign.expand import expand
from shardwright.assign.steps import Step, StepKind, build_steps
from shardwright.errors import AssignmentError
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Shard, cut_of
from shardwright.program.collectives import COLLECTIVES
from shardwright.program.nodes import describe_node
from shardwright.program.program import Program
from shardwright.program.torch_private import has_schema
from shardwright.rules import REGISTRY
from shardwright.rules.call import make_call, map_values
from shardwright.rules.rule import Call, Rule, Strategy, factor_cuts, strategy_for


class RanksDifferError(AssignmentError):
    """Steps that cannot be cut on all ranks alike; ``names``: of their nodes."""

    def __init__(self, nodes: Sequence[fx.Node]) -> None:
        self.names = [node.name for node in nodes]
        more = f" (nor can {len(nodes) - 1} more)" if len(nodes) > 1 else ""
        super().__init__(
            f"{describe_node(nodes[0])} cannot be cut on all ranks alike{more}, as an axis before this one left them "
            "different parts\n"
            "  try: another order of the mesh axes, or a plan that pins this module 'replicate' on one of them"
        )


def rebase(leader: Assignment, program: Program) -> Assignment | None:
    """The leader's choices for another rank's program; None where that has other shapes.

    Raises `RanksDifferError` with the steps that only the leader can cut so.
    """
    program = expand(program, leader.expanded) if leader.expanded else program
    steps, _ = build_steps(program, leader.boundaries)
    ours = [(s.kind, tuple(str(v.shape) if v is not None else "" for v in s.vals)) for s in steps.items]
    theirs = [(s.kind, tuple(str(v.shape) if v is not None else "" for v in s.vals)) for s in leader.steps.items]
    if ours != theirs:
        return None
    strategies, rules, calls = list(leader.strategies), list(leader.rules), list(leader.calls)
    at_odds = []
    for step in steps.items:
        call = call_of_step(step) if calls[step.index] is not None else None
        if call is None or call == calls[step.index]:
            continue
        # The pass before left this rank other constants than the leader (where its slice starts), so other factors.
        calls[step.index], rules[step.index] = call, rule_of_call(call)
        chosen = leader.strategies[step.index]
        if chosen is None:
            continue
        strategies[step.index] = same_layouts(rules[step.index], chosen)
        if strategies[step.index] is None:
            at_odds.append(leader.steps.items[step.index].node)
    if at_odds:
        raise RanksDifferError(at_odds)
    return replace(leader, program=program, steps=steps, strategies=strategies, rules=rules, calls=calls)


def cuts_what_is_left_out(strategy: Strategy | None, rule: Rule | None) -> bool:
    """Whether a strategy cuts a factor that the result leaves out: what lies before or after a slice."""
    return strategy is not None and rule is not None and any(name in rule.dropped for name, _ in strategy.cuts)


def call_of_step(step: Step) -> Call | None:
    """The call of a step, as rules see it; None for a step that has no rules."""
    if step.kind is not StepKind.CALL or not step.vals:
        return None
    if not has_schema(step.node.target) and step.node.target not in COLLECTIVES:
        return None
    values = map_values((step.node.args, step.node.kwargs), _fake)
    return make_call(step.node.target, values[0], values[1], step.node.meta["val"])


def rule_of_call(call: Call) -> Rule | None:
    """The registered rule of a call."""
    entry = REGISTRY.entry(call.op)
    return entry.build(call) if entry is not None else None


def same_layouts(rule: Rule | None, strategy: Strategy) -> Strategy | None:
    """The strategy of ``rule`` that has another strategy's layouts, if there is one."""
    if not strategy.cuts:
        return strategy
    if rule is not None:
        sides = [*zip(rule.operands, strategy.operands, strict=True), *zip(rule.results, strategy.results, strict=True)]
        for dims, layout in sides:
            if dims is None or not isinstance(layout, Shard):
                continue
            for choice in factor_cuts(dims[layout.dim], cut_of(layout), rule.sizes):
                found = strategy_for(rule, choice)
                if found is not None and (found.operands, found.results) == (strategy.operands, strategy.results):
                    return found
    return None


def _fake(value: object) -> object:
    return value.meta.get("val") if isinstance(value, fx.Node) else value


def distinct_ranks(assignment: Assignment, num_ranks: int) -> list[int]:
    """The first of all ranks that hold pieces of the same lengths, so that their programs have the same shapes."""
    used: dict[Cut, None] = {}
    for strategy in assignment.strategies:
        if strategy is not None:
            layouts = (*strategy.operands, *strategy.results)
            used.update((cut_of(layout), None) for layout in layouts if isinstance(layout, Shard))
            used.update((cut, None) for _, cut in strategy.cuts)
    # One period of a cut is as good as all of them, and its size is known.
    periods = dict.fromkeys(Cut.of(num_ranks, cut.runs) for cut in used)
    found: dict[tuple[Any, ...], int] = {}
    for rank in range(num_ranks):
        pieces = (tuple(stop - start for start, stop in period.intervals(rank)) for period in periods)
        found.setdefault(tuple(pieces), rank)
    return list(found.values())
