"""What is known of the sites' layouts before any is chosen: pinned ones, equal ones, free weights, unread inputs."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from shardwright.assign.bonds import Bonds
from shardwright.assign.folding import Site
from shardwright.assign.steps import Step, StepKind
from shardwright.assign.task import Task
from shardwright.errors import LayoutError, PlanError
from shardwright.layout.layout import REPLICATE, Layout, resolve
from shardwright.program.nodes import describe_node
from shardwright.rules.call import tensor_meta
from shardwright.rules.rule import Strategy

Links = Mapping[int, tuple[int, int]]
"""Site → (placeholder site that has the same layout, number of dims)."""


@dataclass(frozen=True, slots=True)
class Given:
    """What is settled by site.

    ``links``: of outputs that mutate buffers, or are gradients, and of tied weights; ``linked``: the sites on both
    sides of them.
    ``free_state``: placeholders of state that the plan leaves free, wholly or in how their dim is cut. ``pinned``: the
    layouts of constraints and of all other placeholders. ``held``: collectives that other ranks meet and have settled.
    ``unread``: placeholders that nothing reads, under their own
    name or that of a tensor they are tied to.
    """

    links: Links
    linked: frozenset[int]
    free_state: frozenset[int]
    pinned: Mapping[int, Layout]
    unread: frozenset[int]
    held: Mapping[int, Strategy] = field(default_factory=dict)


def read_given(task: Task) -> Given:
    """Read pins, mutations and ties; raises `PlanError` for layouts that do not fit the tensors they pin."""
    sites = task.folded.sites
    read = {source for site in sites for sources in site.reads for source, _ in sources}
    links = {**_mutations(task), **_ties(task, read)}
    free_state = frozenset(site.index for site in sites if _is_free(task, site.step))
    pins = ((site.index, _pin(task, site)) for site in sites if site.index not in free_state)
    pinned = {index: layout for index, layout in pins if layout is not None}
    linked = frozenset(index for site, (placeholder, _) in links.items() for index in (site, placeholder))
    inputs = {site.index for site in sites if site.step.kind is StepKind.INPUT}
    held = {site.index: one for site in sites if (one := task.agreed.held.get(site.step.node.name)) is not None}
    return Given(links, linked, free_state, pinned, frozenset(inputs - read - linked), held)


def _mutations(task: Task) -> dict[int, tuple[int, int]]:
    """The outputs that mutate buffers, linked to those; gradients, linked to what they are the gradients of."""
    inputs = {step.node.name: step for step in task.steps.items if step.kind is StepKind.INPUT}
    mutated = {**task.program.mutations(), **task.program.gradients()}
    found = {}
    for site in task.folded.sites:
        if site.step.kind is StepKind.OUTPUT and site.step.output in mutated:
            step = inputs[mutated[site.step.output]]
            found[site.index] = (task.folded.site_of[step.index], step.vals[0].dim())
    return found


def _ties(task: Task, read: set[int]) -> dict[int, tuple[int, int]]:
    """The names of a tied weight, each linked to the one before."""
    inputs = {step.node.name: step for step in task.steps.items if step.kind is StepKind.INPUT}
    tied: dict[int, list[int]] = {}
    for item in task.program.inputs:
        if item.is_state and item.target is not None and item.name in inputs:
            site = task.folded.site_of[inputs[item.name].index]
            tied.setdefault(id(task.program.weights[item.target].tensor), []).append(site)
    # A site of several layers is tied to what each of its weights is tied to.
    bonds: Bonds[int] = Bonds()
    for sites in tied.values():
        for pair in itertools.pairwise(dict.fromkeys(sites)):
            bonds.join(pair)
    found = {}
    for sites in bonds.groups():
        # A chain from the names that something reads to those that nothing does: what readers ask for is passed on.
        chain = sorted(sites, key=lambda site: site in read)
        for leader, site in itertools.pairwise(chain):
            found[site] = (leader, task.folded.sites[site].step.vals[0].dim())
    return found


def _is_free(task: Task, step: Step) -> bool:
    name = step.node.name
    return task.is_state(step) and (name not in task.pins.state or name in task.pins.free_cut)


def _pin(task: Task, site: Site) -> Layout | None:
    """The layout of a constraint or of a placeholder that is not free; None for all else."""
    step = site.step
    if step.kind is StepKind.CONSTRAINT:
        return _resolved(task, step.layout or REPLICATE, step, step.key)
    if step.kind is not StepKind.INPUT:
        return None
    item = task.inputs.get(step.node.name)
    if item is None:
        return REPLICATE
    if item.is_state:
        return task.pins.state[item.name]
    return _resolved(task, task.pins.inputs.get(item.name, REPLICATE), step, item.name)


def _resolved(task: Task, layout: Layout, step: Step, key: str) -> Layout:
    try:
        return resolve(layout, tensor_meta(step.vals[0]).shape, task.num_ranks)
    except LayoutError as error:
        raise PlanError(f"{key!r}: {error}\n  at {describe_node(step.node)}") from error
