"""One rank's choices for another rank's program: the same layouts, written in that program's own factors.

After an axis is cut, the ranks' programs differ in constants (where a slice starts), and with them in what the factors
of a rule are. They may differ in sizes too, as long as what is cut next has one size on all of them: a batch of 2 rows
here and 1 there, features cut. Layouts are what the ranks must agree on, so that their collectives meet.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from shardwright.assign.assignment import Assignment
from shardwright.assign.expand import expand
from shardwright.assign.steps import Step, StepKind, build_steps
from shardwright.errors import AssignmentError
from shardwright.layout.layout import REPLICATE, Layout, Owned, Shard, cut_of
from shardwright.layout.sizes import same_size
from shardwright.program.collectives import COLLECTIVES
from shardwright.program.nodes import describe_node, val_of
from shardwright.program.program import Program
from shardwright.program.torch_private import has_schema
from shardwright.rules import REGISTRY
from shardwright.rules.call import make_call, map_values, tensor_meta
from shardwright.rules.rule import Call, Rule, Strategy, factor_cuts, partial_strategies, strategy_for


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
    """The leader's choices for another rank's program; None where pieces have other sizes and these do not fit them.

    Raises `RanksDifferError` with the steps that only the leader can cut so, where all sizes are the same.
    """
    program = expand(program, leader.expanded) if leader.expanded else program
    steps, _ = build_steps(program, leader.boundaries)
    if list(map(_wiring, steps.items)) != list(map(_wiring, leader.steps.items)):
        return None
    found = replace(
        leader,
        program=program,
        steps=steps,
        strategies=list(leader.strategies),
        rules=list(leader.rules),
        calls=list(leader.calls),
    )
    at_odds = [step.node for step in steps.items if not _take_over(found, step, leader)]
    if at_odds and list(map(_shapes, steps.items)) != list(map(_shapes, leader.steps.items)):
        return None
    if at_odds:
        raise RanksDifferError(at_odds)
    return replace(found, layouts=_placeholder_layouts(found))


def _wiring(step: Step) -> tuple[Any, ...]:
    return step.kind, step.reads, tuple(None if val is None else val.dim() for val in step.vals)


def _shapes(step: Step) -> tuple[str, ...]:
    return tuple("" if val is None else str(val.shape) for val in step.vals)


def _take_over(found: Assignment, step: Step, leader: Assignment) -> bool:
    """Choose the leader's layouts for one step, in place; whether they can be had."""
    index = step.index
    chosen, known = leader.strategies[index], leader.calls[index]
    call = call_of_step(step) if known is not None else None
    if call is not None and call != known:
        # The pass before left this rank other sizes, or other constants (where its slice starts), so other factors.
        found.calls[index], found.rules[index] = call, rule_of_call(call)
        found.strategies[index] = same_layouts(found.rules[index], chosen) if chosen is not None else None
        return chosen is None or found.strategies[index] is not None
    return call is not None or chosen is None or _fits(found, step, chosen, leader)


def _fits(found: Assignment, step: Step, chosen: Strategy, leader: Assignment) -> bool:
    """Whether a step that has no call to read a rule off has values of sizes that a strategy of the leader's fits."""
    ours = _values(found, step)
    if step.kind is StepKind.CALL and any(layout != REPLICATE for layout in (*chosen.operands, *chosen.results)):
        # What is cut in the graphs that a call runs was found for the sizes there.
        theirs = _values(leader, leader.steps.items[step.index])
        return [str(val.shape) for val in ours] == [str(val.shape) for val in theirs]
    layouts = (*chosen.operands, *chosen.results)
    return all(
        not isinstance(layout, Shard) or same_size(cut_of(layout).size, tensor_meta(val).shape[layout.dim])
        for val, layout in zip(ours, layouts, strict=False)
    )


def _values(found: Assignment, step: Step) -> list[torch.Tensor]:
    """The values that a step reads, then those that it makes."""
    read = [found.steps.items[source].vals[result] for source, result in step.reads]
    return [val for val in (*read, *step.vals) if val is not None]


def _placeholder_layouts(found: Assignment) -> dict[str, Layout]:
    strategies = ((step, found.strategies[step.index]) for step in found.steps.items if step.kind is StepKind.INPUT)
    return {step.node.name: strategy.results[0] for step, strategy in strategies if strategy is not None}


def cuts_what_is_left_out(strategy: Strategy | None, rule: Rule | None) -> bool:
    """Whether a strategy cuts a factor that the result leaves out: what lies before or after a slice."""
    return strategy is not None and rule is not None and any(name in rule.dropped for name, _ in strategy.cuts)


def call_of_step(step: Step) -> Call | None:
    """The call of a step, as rules see it; None for a step that has no rules."""
    if step.kind is not StepKind.CALL or not step.vals:
        return None
    if not has_schema(step.node.target) and step.node.target not in COLLECTIVES:
        return None
    values = map_values((step.node.args, step.node.kwargs), val_of)
    return make_call(step.node.target, values[0], values[1], step.node.meta["val"])


def rule_of_call(call: Call) -> Rule | None:
    """The registered rule of a call."""
    entry = REGISTRY.entry(call.op)
    return entry.build(call) if entry is not None else None


def same_layouts(rule: Rule | None, strategy: Strategy) -> Strategy | None:
    """The strategy of ``rule`` that has another strategy's layouts, if there is one."""
    layouts = (*strategy.operands, *strategy.results)
    if all(layout == REPLICATE for layout in layouts):
        return strategy
    if rule is None or len(rule.operands) != len(strategy.operands) or len(rule.results) != len(strategy.results):
        return None
    if not strategy.cuts:
        is_passed = any(isinstance(layout, Owned) for layout in layouts) or strategy in partial_strategies(rule)
        return strategy if is_passed else None
    sides = [*zip(rule.operands, strategy.operands, strict=True), *zip(rule.results, strategy.results, strict=True)]
    for dims, layout in sides:
        if dims is None or not isinstance(layout, Shard):
            continue
        for choice in factor_cuts(dims[layout.dim], cut_of(layout), rule.sizes):
            found = strategy_for(rule, choice)
            if found is not None and (found.operands, found.results) == (strategy.operands, strategy.results):
                return found
    return None
