"""`assign_layouts`: from a program and pinned layouts to a strategy for every step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from shardwright.assign.agreed import Agreed
from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.choices import Choices, find_choices
from shardwright.assign.cost import CostModel
from shardwright.assign.costs import make_problem, whole_work_us
from shardwright.assign.effort import Budget
from shardwright.assign.expand import expand, gathered_composites, has_same_calls, is_worth_bytes
from shardwright.assign.given import Given, read_given
from shardwright.assign.held import bytes_allowed, fraction_ranges, held_bytes
from shardwright.assign.higher_order import CutSubgraphs
from shardwright.assign.highs import NoAnswerError
from shardwright.assign.inside import Assign
from shardwright.assign.integer_program import NothingBelowError
from shardwright.assign.late_sums import with_late_sums
from shardwright.assign.milp import solve
from shardwright.assign.problem import Problem, Solution
from shardwright.assign.scarce import scarce_heads
from shardwright.assign.sequences import whole_sequences, with_long_sequences
from shardwright.assign.site_rules import SiteRules, read_rules
from shardwright.assign.steps import StepKind
from shardwright.assign.subgraph_choices import SubgraphSolver
from shardwright.assign.task import Task, make_task
from shardwright.errors import AssignmentError
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout
from shardwright.plan.pins import Pins
from shardwright.program.program import Program
from shardwright.rules.operators.unrolled import can_write_out
from shardwright.rules.rule import Strategy

GAP_TO_EXPAND = 0.05
"""Composites are written out only where the assignment is known to be this close to the best one."""


def assign_layouts(
    program: Program,
    pins: Pins,
    num_ranks: int,
    *,
    auto: bool = False,
    cost: CostModel | None = None,
    slack: float = 0.1,
    budget: Budget | None = None,
    agreed: Agreed | None = None,
) -> Assignment:
    """Choose a strategy for every step of ``program`` on one mesh axis of ``num_ranks`` ranks.

    ``auto``: parameters are free and their bytes a rank are kept within ``slack`` of the least; otherwise the plan's
    pins hold and communication is minimised before work. Composite operators behind a gather are tried written out,
    and stay so where that communicates less (``auto``: takes less time). Raises `AssignmentError` when nothing
    satisfies the pins. ``agreed``: what other ranks leave open. ``budget``: of all that is solved.
    """
    options: dict[str, Any] = {"auto": auto, "cost": cost, "slack": slack, "agreed": agreed or Agreed()}
    budget = budget or Budget()
    found = _assign(program, pins, num_ranks, budget=budget, **options)
    gathered = gathered_composites(found.steps, found.strategies)
    sequences = whole_sequences(found) if auto else []
    few_steps = [node.name for node in sequences if can_write_out(node)]
    # What is behind a gather that the search ended too early to avoid says nothing about composites.
    if budget.is_spent or not (few_steps or (gathered and found.solution.gap <= GAP_TO_EXPAND)):
        return with_long_sequences(found, sequences)
    better_than = None if few_steps or is_worth_bytes(program, gathered) else found.solution
    names: dict[str, Cut | None] = {**dict.fromkeys(few_steps), **gathered}
    expanded = expand(program, names)
    if has_same_calls(expanded, program):
        return with_long_sequences(found, sequences)
    try:
        other = _assign(expanded, pins, num_ranks, budget=budget, better_than=better_than, **options)
    except (NothingBelowError, NoAnswerError):
        return with_long_sequences(found, sequences)
    if auto:
        fewer = bool(few_steps) and bytes_allowed(other, slack) < held_bytes(found.program, [found])
        better = fewer or other.cost_us < found.cost_us
    else:
        better = other.solution.communication_us < found.solution.communication_us
    best = replace(other, expanded=names, whole_work_us=found.whole_work_us) if better else found
    return with_long_sequences(best, whole_sequences(best) if auto else [])


def _assign(
    program: Program,
    pins: Pins,
    num_ranks: int,
    *,
    auto: bool,
    cost: CostModel | None,
    slack: float,
    budget: Budget,
    agreed: Agreed,
    better_than: Solution | None = None,
) -> Assignment:
    """Assign a program as it is written."""
    task = make_task(program, pins, num_ranks, auto=auto, cost=cost, agreed=agreed)
    described = read_rules(task.folded.sites)
    given = read_given(task)
    free = partial(assign_layouts, pins=Pins(), num_ranks=num_ranks, auto=True, cost=task.cost)
    choices = find_choices(task, described.rules, given, SubgraphSolver(subgraph_solver(num_ranks, task.cost), free))
    problem = make_problem(task, described.rules, given, choices, slack=slack, budget=budget)
    solution = _solve(problem, better_than)
    work_us = [site.work_us[chosen] for site, chosen in zip(problem.sites, solution.chosen, strict=True)]
    found = _assignment(task, described, given, choices, solution)
    found = with_late_sums(replace(found, work_us=[work_us[site] for site in task.folded.site_of]))
    return replace(found, fraction_ranges=fraction_ranges(task, problem, choices)) if auto else found


def _solve(problem: Problem, better_than: Solution | None) -> Solution:
    """The best assignment in which parts of batches stay what they are; where there is none, the best of all."""
    try:
        return solve(problem, better_than=better_than)
    except (NothingBelowError, NoAnswerError):
        raise
    except AssignmentError:
        if not any(value.stays for value in problem.values):
            raise
        free = [replace(value, stays=frozenset()) for value in problem.values]
        return solve(replace(problem, values=free), better_than=better_than)


def _assignment(task: Task, described: SiteRules, given: Given, choices: Choices, solution: Solution) -> Assignment:
    """The solution, spelled out for every step."""
    steps, sites, site_of = task.steps.items, task.folded.sites, task.folded.site_of
    chosen = [choices.strategies[site.index][solution.chosen[site.index]] for site in sites]
    by_step = [chosen[site] for site in site_of]
    scarce = scarce_heads(task.folded, described.rules, choices.candidates, given.free_state, task.num_ranks)
    return Assignment(
        program=task.program,
        steps=task.steps,
        strategies=[None if step.kind is StepKind.PLAIN else by_step[step.index] for step in steps],
        rules=[described.rules[site] for site in site_of],
        calls=[described.calls[site] for site in site_of],
        layouts={step.node.name: by_step[step.index].results[0] for step in steps if step.kind is StepKind.INPUT},
        fallbacks=_fallbacks(task, described.reasons, choices, chosen),
        weights=task.weights,
        solution=solution,
        num_sites=len(sites),
        boundaries=tuple(task.pins.boundaries),
        scarce=scarce,
        cost=task.cost,
        whole_work_us=whole_work_us(task, described.rules),
    )


def _fallbacks(task: Task, reasons: Mapping[int, str], choices: Choices, chosen: Sequence[Strategy]) -> list[Fallback]:
    """What runs whole for want of a rule; a call whose subgraphs communicate has another way."""
    return [
        Fallback.of(step.node, reason)
        for index, reason in reasons.items()
        if (index, chosen[index]) not in choices.inside_us
        for step in task.folded.sites[index].steps
    ]


def subgraph_solver(num_ranks: int, cost: CostModel) -> Assign:
    """Assigns one subgraph under the layouts of its inputs and outputs."""

    def assign(
        found: CutSubgraphs,
        number: int,
        inputs: Mapping[str, Layout],
        outputs: Mapping[int, Layout],
        weights: frozenset[str],
    ) -> Assignment:
        pins = Pins(inputs=dict(inputs), outputs=dict(outputs), weights=weights)
        return assign_layouts(found.programs[number], pins, num_ranks, cost=cost)

    return assign
