"""The solver's problem: what every strategy of every site costs, and the values that flow between sites."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch.export.graph_signature import InputKind

from shardwright.assign.batches import parts_of_batches
from shardwright.assign.candidates import Candidates
from shardwright.assign.choices import Choices
from shardwright.assign.cost import held_fraction
from shardwright.assign.effort import Budget
from shardwright.assign.folding import Site
from shardwright.assign.given import Given
from shardwright.assign.packed import DimCut
from shardwright.assign.problem import Problem, SiteChoices, ValueFlow
from shardwright.assign.steps import Step, StepKind
from shardwright.assign.task import Task
from shardwright.assign.unpacked import unpacked_factors
from shardwright.layout.layout import REPLICATE
from shardwright.layout.sizes import size_hint
from shardwright.program.collectives import COLLECTIVES, all_reduce
from shardwright.program.nodes import describe_node
from shardwright.program.quantized_weights import is_packed
from shardwright.rules.rule import Rule, Strategy

PACKED_READS = 1e3
"""Under a plan a byte of quantised weights on a rank is worth the time of reading it so often: more than all that is
computed of it, as their scales lie whole on every rank where a cut that has less to compute falls inside a group.
"""


def make_problem(
    task: Task, rules: Sequence[Rule | None], given: Given, choices: Choices, *, slack: float, budget: Budget
) -> Problem:
    """Price every strategy; ``slack`` and ``budget`` are handed to the solver."""
    # A buffer that is written to (a key-value cache) lies as those who write and read it do: a bound that could only
    # be kept by another layout would have it gathered at every call.
    bound = {**unpacked_factors(task.program), **dict.fromkeys(task.program.mutations().values(), 0.0)}
    sites = [_site_choices(task, site, rules[site.index], given, choices, bound) for site in task.folded.sites]
    for index in () if task.auto else beside_packed(task, choices.candidates):
        sites[index].byte_us = PACKED_READS / task.cost.memory_bytes_per_us
    ties = [(site, placeholder) for site, (placeholder, _) in given.links.items()]
    return Problem(task.num_ranks, sites, _flows(task, rules, choices), ties, task.cost, task.auto, slack, budget)


def _site_choices(
    task: Task, site: Site, rule: Rule | None, given: Given, choices: Choices, bound: Mapping[str, float]
) -> SiteChoices:
    node, strategies = site.step.node, choices.strategies[site.index]
    return SiteChoices(
        members=site.members,
        strategies=strategies,
        work_us=_work_us(task, site.step, rule, strategies),
        weight_bytes=_weight_bytes(task, site, given, strategies),
        bound_factor=bound.get(node.name, 1.0),
        name=describe_node(node),
        is_summed=bool(node.users) and all(user.target is all_reduce for user in node.users),
        inside_us=[choices.inside_us.get((site.index, strategy), 0.0) for strategy in strategies],
    )


def _weight_bytes(task: Task, site: Site, given: Given, strategies: Sequence[Strategy]) -> list[int]:
    """What a rank holds of a weight, by strategy."""
    step = site.step
    is_settled = len(strategies) == 1 and site.index in given.unread
    # Its layout is not a matter of bytes, which shall not loosen (or tighten) the bound on the others'; or it is one
    # tensor with another, whose bytes count.
    is_free_of_charge = is_settled or site.index in given.links or step.node.name in task.pins.may_stay_whole
    if is_free_of_charge or not task.is_state(step):
        return [0] * len(strategies)
    total = task.num_bytes(step.vals[0])
    return [math.ceil(total * held_fraction(strategy.results[0])) for strategy in strategies]


def beside_packed(task: Task, candidates: Candidates) -> list[int]:
    """The placeholders of state that hold quantised values, or some cut of which goes with a cut of these."""
    state = {site.index: site.step.vals[0] for site in task.folded.sites if task.is_state(site.step)}
    packed = {index for index, value in state.items() if is_packed(value)}
    roots: dict[int, set[DimCut]] = {}
    for place in candidates.bonds.members() if packed else ():
        ((index, _), _), _ = place
        if index in state:
            roots.setdefault(index, set()).add(candidates.bonds.root(place))
    with_packed = {root for index in packed for root in roots.get(index, ())}
    return [index for index, own in roots.items() if own & with_packed]


def whole_work_us(task: Task, rules: Sequence[Rule | None]) -> float:
    """The time of all work on one rank alone, which holds everything whole."""
    total = 0.0
    for site in task.folded.sites:
        tensors = len(site.step.reads) + len(site.step.vals)
        whole = Strategy((), (REPLICATE,) * tensors, ())
        total += site.members * _work_us(task, site.step, rules[site.index], [whole])[0]
    return total


def _work_us(task: Task, step: Step, rule: Rule | None, strategies: Sequence[Strategy]) -> list[float]:
    """The time of a call on the busiest rank, by strategy."""
    if step.kind is not StepKind.CALL or not step.vals or step.node.target in COLLECTIVES:
        return [0.0] * len(strategies)
    moved = [] if rule is not None and rule.moves else task.moved_bytes(step)
    products = 0
    if rule is not None:
        sizes = {name: size_hint(size, task.program.fake_mode) for name, size in rule.sizes.items()}
        products = sum(math.prod(sizes[name] for name in names) for names in rule.multiplied)
        if rule.multiplies == ():
            given = moved[-1]
            moved = [min(size, given) for size in moved]
    element_bytes = max((value.element_size() for value in step.vals if value is not None), default=0)
    return [task.cost.work_us(strategy, moved, products, element_bytes) for strategy in strategies]


def _flows(task: Task, rules: Sequence[Rule | None], choices: Choices) -> list[ValueFlow]:
    flows, weights, batch = [], _made_of_weights(task, rules), parts_of_batches(task, choices)
    for (source, result, readers), count in task.folded.values.items():
        maker = task.folded.sites[source].step
        value = maker.vals[result] if result < len(maker.vals) else None
        moved = tuple(
            (site, operand) for site, operand in readers if task.folded.sites[site].step.reads_values(operand)
        )
        if value is None or not moved:
            continue
        is_bool, is_weight = value.dtype == torch.bool, maker.index in weights
        part, stays = batch.part_of(source, result, moved)
        flows.append(ValueFlow(count, source, result, moved, task.num_bytes(value), is_bool, is_weight, part, stays))
    return flows


def _made_of_weights(task: Task, rules: Sequence[Rule | None]) -> set[int]:
    """Steps that give parameters or what is made of nothing else: transposed, cast, stacked, dequantized ones.

    What is summed to fewer numbers (the norms of a weight) is not a weight.
    """
    found: set[int] = set()
    for step in task.steps.items:
        item = task.inputs.get(step.node.name) if step.kind is StepKind.INPUT else None
        is_parameter = item is not None and (item.kind == InputKind.PARAMETER or item.name in task.pins.weights)
        of_weights = step.kind is StepKind.CALL and step.reads and all(source in found for source, _ in step.reads)
        if is_parameter or (of_weights and not _is_sum(task, step, rules[task.folded.site_of[step.index]])):
            found.add(step.index)
    return found


def _is_sum(task: Task, step: Step, rule: Rule | None) -> bool:
    """Whether a call reduces what it reads to something smaller."""
    if rule is None or not rule.reduces:
        return False
    read = [task.steps.items[source].vals[result] for source, result in step.reads]
    made = max((task.num_elements(value) for value in step.vals if value is not None), default=0)
    return made < min((task.num_elements(value) for value in read if value is not None), default=0)
