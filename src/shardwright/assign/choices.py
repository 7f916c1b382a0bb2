"""What every site may do: its strategies, from the candidate cuts of the dims it touches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from shardwright.assign.candidates import Candidates, find_candidates, site_strategies
from shardwright.assign.folding import Site
from shardwright.assign.given import Given
from shardwright.assign.higher_order import is_subgraph_call
from shardwright.assign.owned import add_owned
from shardwright.assign.rebase import same_layouts
from shardwright.assign.steps import Step, StepKind
from shardwright.assign.subgraph_choices import SubgraphSolver, subgraph_ways
from shardwright.assign.task import Task
from shardwright.errors import LayoutError, PlanError
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Partial, Shard, resolve
from shardwright.layout.sizes import Size, size_hint
from shardwright.program.backends import is_reducible
from shardwright.program.signature import output_names
from shardwright.rules.call import tensor_meta
from shardwright.rules.rule import Rule, Strategy, partial_strategies, whole_strategy


@dataclass(frozen=True, slots=True)
class Choices:
    """The strategies of every site. ``inside_us``: (site, strategy) → the time of the collectives in its subgraphs."""

    candidates: Candidates
    strategies: Sequence[list[Strategy]]
    inside_us: Mapping[tuple[int, Strategy], float]


def find_choices(task: Task, rules: Sequence[Rule | None], given: Given, solver: SubgraphSolver) -> Choices:
    """Discover the candidate cuts, then make the strategies: of calls, of the placeholders they read, of outputs."""
    candidates = find_cuts(task, rules, given)
    strategies: list[list[Strategy]] = []
    inside_us: dict[tuple[int, Strategy], float] = {}
    for site in task.folded.sites:
        found = _strategies(task, given, candidates, site, rules[site.index])
        ways = (
            subgraph_ways(task, given, candidates, site, solver) if _may_communicate_inside(task, site, rules) else {}
        )
        strategies.append(list(dict.fromkeys([*found, *ways])))
        inside_us.update(((site.index, way), time_us) for way, time_us in ways.items())
    add_owned(task.steps, task.folded, rules, strategies)
    _keep_agreed(task, rules, given, strategies)
    _add_inputs_and_outputs(task, given, candidates, strategies)
    return Choices(candidates, strategies, inside_us)


def find_cuts(task: Task, rules: Sequence[Rule | None], given: Given) -> Candidates:
    """The candidate cuts of every dim."""
    seeds = partial(_is_seed, task, rules)
    pinned = {**given.pinned, **{index: strategy.results[0] for index, strategy in given.held.items()}}
    return find_candidates(task.folded, list(rules), given.links, pinned, task.num_ranks, seeds)


def _is_seed(task: Task, rules: Sequence[Rule | None], site: Site, group: tuple[str, ...]) -> bool:
    """Whether a factor's equal chunks are worth trying by themselves; all other cuts are these, passed on.

    They are when it gives a dim structure (the heads of a view, the parts of a split), cuts a weight, or cuts so
    much work that a collective's time is small.
    """
    if task.num_ranks == 1:
        return False
    rule = rules[site.index]
    assert rule is not None, "only rules have factors"
    if rule.dropped & set(group) and any(_is_uneven(rule.sizes[name], task.num_ranks) for name in group):
        # A slice of a packed dim takes whole parts; one row of a matrix, or all before the i-th, is not a structure.
        return False
    terms = [term for dims in (*rule.operands, *rule.results) if dims is not None for term in dims]
    if any(len(term.factors) > 1 and name in term.factors for term in terms for name in group):
        return True
    for dims, sources in zip(rule.operands, site.reads, strict=True):
        if any(name in term.factors for term in dims for name in group):
            makers = (task.folded.sites[source].step for source, _ in sources)
            if any(task.is_state(maker) for maker in makers):
                return True
    return task.auto and sum(task.moved_bytes(site.step)) > task.cost.latency_us * task.cost.memory_bytes_per_us


def _is_uneven(size: Size, num_ranks: int) -> bool:
    return not isinstance(size, int) or size % num_ranks != 0


def _strategies(task: Task, given: Given, candidates: Candidates, site: Site, rule: Rule | None) -> list[Strategy]:
    """What a call or constraint may do without communicating; nothing yet for placeholders and outputs."""
    step = site.step
    if step.kind in (StepKind.INPUT, StepKind.OUTPUT):
        return []
    if step.kind is StepKind.CONSTRAINT:
        layout = given.pinned[site.index]
        return [Strategy((), (layout,), (layout,))]
    if rule is None:
        return [Strategy((), (REPLICATE,) * len(site.reads), (REPLICATE,) * max(len(step.vals), 1))]
    if task.num_ranks == 1:
        return [whole_strategy(rule)]
    cut = site_strategies(candidates, site, rule) if task.agreed.may_cut(site) else []
    return [*(one for one in cut if _can_be_reduced(one, step)), whole_strategy(rule), *partial_strategies(rule)]


def _may_communicate_inside(task: Task, site: Site, rules: Sequence[Rule | None]) -> bool:
    """Whether a site calls subgraphs that may communicate."""
    is_call = site.step.kind is StepKind.CALL and rules[site.index] is not None
    return is_call and task.num_ranks > 1 and task.agreed.may_cut(site) and is_subgraph_call(site.step.node)


def _keep_agreed(task: Task, rules: Sequence[Rule | None], given: Given, strategies: list[list[Strategy]]) -> None:
    """Leave, in place, collectives that other ranks meet the layouts that all of these ranks can have."""
    for site in task.folded.sites:
        strategies[site.index] = [one for one in strategies[site.index] if task.agreed.allows(site.step, one)]
    for index, settled in given.held.items():
        found = same_layouts(rules[index], settled)
        assert found is not None, f"{task.folded.sites[index].step.node} cannot lie as on other ranks: {settled}"
        strategies[index] = [found]


def _can_be_reduced(strategy: Strategy, step: Step) -> bool:
    """Whether the partial results of a call have dtypes that a collective can make whole, or stay with their ranks."""
    return all(
        not isinstance(layout, Partial) or val is None or is_reducible(val.dtype, layout.op)
        for layout, val in zip(strategy.results, step.vals, strict=True)
    )


def _add_inputs_and_outputs(task: Task, given: Given, candidates: Candidates, strategies: list[list[Strategy]]) -> None:
    """Add, in place, the strategies of placeholders, which follow from their readers', and of outputs."""
    sites = task.folded.sites
    summed = _read_as_partial(sites, strategies)
    for site in sites:
        if site.step.kind is StepKind.INPUT:
            pinned = given.pinned.get(site.index)
            options = [pinned] if pinned is not None else _free_layouts(task, given, candidates, site, summed)
            strategies[site.index] = [Strategy((), (), (layout,)) for layout in options]
    for site in sites:
        if site.step.kind is StepKind.OUTPUT:
            link = given.links.get(site.index)
            linked = [one.results[0] for one in strategies[link[0]]] if link is not None else None
            layouts = [_output_layout(task, site.step)] if linked is None else linked
            strategies[site.index] = [Strategy((), (layout,), ()) for layout in layouts]


def _read_as_partial(sites: Sequence[Site], strategies: Sequence[Sequence[Strategy]]) -> set[int]:
    """The sites of values that some strategy reads as a partial sum."""
    return {
        source
        for site in sites
        for position, sources in enumerate(site.reads)
        if position not in site.step.unread
        and any(strategy.operands[position] == Partial() for strategy in strategies[site.index])
        for source, _ in sources
    }


def _free_layouts(
    task: Task, given: Given, candidates: Candidates, site: Site, summed: Collection[int]
) -> list[Layout]:
    """The layouts that a free parameter, buffer or constant may have, and that axes after this one can go on from."""
    if task.num_ranks == 1:
        return [REPLICATE]
    shape, name = tensor_meta(site.step.vals[0]).shape, site.step.node.name
    found = _layouts_here(task, given, candidates, site, summed)
    return [layout for layout in found if task.pins.leaves_enough(name, layout, shape)] or found


def _layouts_here(
    task: Task, given: Given, candidates: Candidates, site: Site, summed: Collection[int]
) -> list[Layout]:
    value, name = site.step.vals[0], site.step.node.name
    cuts = candidates.layouts((site.index, 0), value.dim())
    if name in task.pins.free_cut:
        options = _cuts_of_pinned_dim(task, site, cuts)
        return [*options, REPLICATE] if name in task.pins.may_stay_whole else options
    options: list[Layout] = [REPLICATE, *cuts]
    if site.index in given.unread:
        # Nothing reads it (a tower that the example never enters), so any cut of it costs nothing.
        mode = task.program.fake_mode
        longest = max(range(value.dim()), key=lambda dim: size_hint(value.shape[dim], mode), default=None)
        if longest is not None and isinstance(size := value.shape[longest], int) and size >= task.num_ranks:
            options = [Shard(longest, Cut.even(size, task.num_ranks))]
    is_summable = value.is_floating_point() and is_reducible(value.dtype, "sum")
    if site.index in summed and site.index not in given.linked and is_summable:
        options.append(Partial())
    return options


def _cuts_of_pinned_dim(task: Task, site: Site, cuts: Sequence[Layout]) -> list[Layout]:
    """The shards of a placeholder whose dim the plan fixes, but not where it is cut."""
    pinned, value = task.pins.state[site.step.node.name], site.step.vals[0]
    assert isinstance(pinned, Shard), "a free cut is a shard"
    options: list[Layout] = [cut for cut in cuts if isinstance(cut, Shard) and cut.dim == pinned.dim]
    if not options and isinstance(size := value.shape[pinned.dim], int):
        # Nothing in the graph says how to cut it: nothing reads it, or only what has no rule.
        return [Shard(pinned.dim, Cut.even(size, task.num_ranks))]
    return options


def _output_layout(task: Task, step: Step) -> Layout:
    """The layout that the caller wants of an output; raises `PlanError` where it does not fit."""
    asked = task.pins.outputs.get(step.output, REPLICATE)
    source, result = step.reads[0]
    shape = tuple(tensor_meta(task.steps.items[source].vals[result]).shape)
    try:
        return resolve(asked, shape, task.num_ranks)
    except LayoutError as error:
        name = next(name for name, position in output_names(task.program).items() if position == step.output)
        raise PlanError(f"output {name!r} of shape {shape}: {error}") from error
