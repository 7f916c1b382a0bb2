"""`assign_layouts`: from a program and pinned layouts to a strategy for every step."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.candidates import Candidates, discover, site_strategies
from shardwright.assign.cost import CostModel, share
from shardwright.assign.effort import Budget
from shardwright.assign.expand import expand, gathered_composites
from shardwright.assign.folding import Folded, Site, fold
from shardwright.assign.higher_order import CutRegions, is_region_call, read_regions, region_rule
from shardwright.assign.highs import NoAnswerError, NothingBelowError
from shardwright.assign.inside import Assign, cuts_inside, ways_inside
from shardwright.assign.milp import solve
from shardwright.assign.owned import add_owned
from shardwright.assign.problem import Problem, SiteChoices, Solution, ValueFlow
from shardwright.assign.rebase import step_call
from shardwright.assign.scarce import scarce_heads
from shardwright.assign.sequences import held_bytes, whole_sequences, with_long_sequences
from shardwright.assign.steps import Step, Steps, build_steps
from shardwright.errors import LayoutError, PlanError, RuleError, raise_findings
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Partial, Shard, resolve
from shardwright.layout.sizes import Size, size_hint
from shardwright.plan.pins import Pins
from shardwright.program.backends import is_reducible
from shardwright.program.collectives import COLLECTIVES, all_reduce
from shardwright.program.nodes import describe, op_name
from shardwright.program.program import Program
from shardwright.rules import REGISTRY
from shardwright.rules.call import tensor_meta
from shardwright.rules.operators.flex import flex_rule, is_flex_attention
from shardwright.rules.operators.unrolled import can_write_out
from shardwright.rules.rule import Rule, Strategy, Term, partial_strategies, whole_strategy

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
    uncut: Collection[str] = (),
) -> Assignment:
    """Choose a strategy for every step of ``program`` on one mesh axis of ``num_ranks`` ranks.

    ``auto``: parameters are free and their bytes a rank are kept within ``slack`` of the least; otherwise the plan's
    pins hold and communication is minimised before work. Composite operators behind a gather are tried written out,
    and stay so where that communicates less (``auto``: takes less time). Raises `AssignmentError` when nothing
    satisfies the pins. ``uncut``: names of nodes that no factor of may be cut. ``budget``: of all that is solved.
    """
    options: dict[str, Any] = {"auto": auto, "cost": cost, "slack": slack, "uncut": frozenset(uncut)}
    budget = budget or Budget()
    found = _assign(program, pins, num_ranks, budget=budget, **options)
    names = gathered_composites(found.steps, found.strategies)
    sequences = whole_sequences(found) if auto else []
    few_steps = [node.name for node in sequences if can_write_out(node)]
    # What is behind a gather that the search ended too early to avoid says nothing about composites.
    if budget.is_spent or not (few_steps or (names and found.solution.gap <= GAP_TO_EXPAND)):
        return with_long_sequences(found, sequences)
    better_than = None if few_steps else found.solution
    try:
        expanded = expand(program, {*names, *few_steps})
        other = _assign(expanded, pins, num_ranks, budget=budget, better_than=better_than, **options)
    except (NothingBelowError, NoAnswerError):
        return with_long_sequences(found, sequences)
    if auto:
        fewer = bool(few_steps) and held_bytes(other) * (1 + slack) < held_bytes(found)
        better = fewer or other.cost_us < found.cost_us
    else:
        better = other.solution.reshard_us < found.solution.reshard_us
    best = replace(other, expanded=tuple(dict.fromkeys([*names, *few_steps]))) if better else found
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
    uncut: frozenset[str],
    better_than: Solution | None = None,
) -> Assignment:
    steps, findings = build_steps(program, pins.boundaries)
    raise_findings(PlanError, findings, summary="the plan does not fit the program")
    targets = {i.name: i.target or i.name for i in program.inputs}
    fixed = {**pins.state, **pins.inputs}
    folded = fold(steps, targets, fixed)
    builder = _Builder(program, pins, num_ranks, steps, folded, auto=auto, cost=cost or CostModel(), uncut=uncut)
    problem = builder.problem(slack=slack, budget=budget)
    solution = solve(problem, better_than=better_than)
    chosen = [builder.strategies[site.index][solution.chosen[site.index]] for site in folded.sites]
    by_step: list[Strategy | None] = [chosen[site] for site in folded.site_of]
    return Assignment(
        program=program,
        steps=steps,
        strategies=[None if step.kind == "plain" else by_step[step.index] for step in steps.items],
        rules=[builder.rules[site] for site in folded.site_of],
        calls=[builder.calls[site] for site in folded.site_of],
        layouts={s.node.name: by_step[s.index].results[0] for s in steps.items if s.kind == "input"},  # type: ignore[union-attr]
        fallbacks=builder.fallbacks(chosen),
        weights=builder.weights,
        solution=solution,
        num_sites=len(folded.sites),
        boundaries=tuple(pins.boundaries),
        scarce=scarce_heads(folded, builder.rules, builder.candidates, builder.free_state, num_ranks),
    )


def region_solver(num_ranks: int) -> Assign:
    """Assigns one region under the layouts of its inputs and outputs."""

    def assign(
        found: CutRegions,
        number: int,
        inputs: Mapping[str, Layout],
        outputs: Mapping[int, Layout],
        weights: frozenset[str],
    ) -> Assignment:
        pins = Pins(inputs=dict(inputs), outputs=dict(outputs), weights=weights)
        return assign_layouts(found.programs[number], pins, num_ranks)

    return assign


class _Builder:
    """Makes the solver's problem: calls, rules and candidate strategies of every site."""

    def __init__(
        self,
        program: Program,
        pins: Pins,
        num_ranks: int,
        steps: Steps,
        folded: Folded,
        *,
        auto: bool,
        cost: CostModel,
        uncut: frozenset[str],
    ) -> None:
        self.auto, self.cost, self.uncut = auto, cost, uncut
        self.program, self.pins, self.num_ranks, self.steps, self.folded = program, pins, num_ranks, steps, folded
        self.fake_mode = program.fake_mode
        self.weights = pins.weights | {item.name for item in program.inputs if item.is_state}
        self.kinds = {i.name: i for i in program.inputs}
        self.calls = [step_call(site.step) for site in folded.sites]
        self.reasons: dict[int, str] = {}
        self.rules = [self._rule(site) for site in folded.sites]
        self.mutated = program.mutations()
        self.links = self._links()
        self.free_state = self._free_state()
        pinned = {s.index: layout for s in folded.sites if (layout := self._pinned(s)) is not None}
        self.candidates: Candidates = discover(folded, self.rules, self.links, pinned, num_ranks, self._seeds)
        self.unread = self._unread()
        self.talk_us: dict[tuple[int, Strategy], float] = {}
        self.strategies = [self._strategies(site) for site in folded.sites]
        add_owned(steps, folded, self.rules, self.strategies)
        self._add_input_strategies()

    def _seeds(self, site: Site, group: tuple[str, ...]) -> bool:
        """Whether a factor's equal chunks are worth trying by themselves; all other cuts are these, passed on.

        They are when it gives a dim structure (the heads of a view, the parts of a split), cuts a weight, or cuts so
        much work that a collective's time is small.
        """
        if self.num_ranks == 1:
            return False
        rule = self.rules[site.index]
        assert rule is not None, "only rules have factors"
        if rule.dropped & set(group) and any(_is_uneven(rule.sizes[name], self.num_ranks) for name in group):
            # A slice of a packed dim takes whole parts; one row of a matrix, or all before the i-th, is no structure.
            return False
        terms = [term for dims in (*rule.operands, *rule.results) if dims is not None for term in dims]
        if any(len(term.factors) > 1 and name in term.factors for term in terms for name in group):
            return True
        for dims, sources in zip(rule.operands, site.reads, strict=True):
            if any(name in term.factors for term in dims for name in group):
                makers = (self.folded.sites[source].step for source, _ in sources)
                if any(maker.kind == "input" and self.kinds[maker.node.name].is_state for maker in makers):
                    return True
        return self.auto and sum(self._moved(site.step)) > self.cost.latency_us * self.cost.memory_bytes_per_us

    def _rule(self, site: Site) -> Rule | None:
        step = site.step
        if step.kind == "constraint":
            dims = tuple(Term((f"d{i}",)) for i in range(step.vals[0].dim()))
            meta = tensor_meta(step.vals[0])
            return Rule((dims,), (dims,), {f"d{i}": size for i, size in enumerate(meta.shape)}, moves=True)
        call = self.calls[site.index]
        if call is None:
            return self._region_rule(site)
        entry = REGISTRY.entry(call.op)
        if entry is None:
            self.reasons[site.index] = REGISTRY.reason(call.op)
            return None
        try:
            rule = entry.build(call)
        except RuleError as error:
            self.reasons[site.index] = str(error)
            return None
        if rule is None:
            self.reasons[site.index] = "its rule does not cover these arguments"
            return None
        assert len(rule.operands) == len(site.reads), f"rule of {op_name(call.op)} describes other operands: {rule}"
        return rule

    def _region_rule(self, site: Site) -> Rule | None:
        step = site.step
        rule = flex_rule(step.node) if is_flex_attention(step.node) else region_rule(step)
        if step.kind == "call" and step.vals and (rule is None or not rule.groups()):
            self.reasons[site.index] = (
                "nothing in the graphs it calls can be cut without communication"
                if is_region_call(step.node)
                else "it is a higher-order operator or a Python function"
            )
        return rule

    def _links(self) -> dict[int, tuple[int, int]]:
        """Site → (placeholder site, number of dims): outputs that mutate buffers, and tied weights."""
        inputs = {step.node.name: step for step in self.steps.items if step.kind == "input"}
        found = {}
        for site in self.folded.sites:
            if site.step.kind == "output" and site.step.output in self.mutated:
                step = inputs[self.mutated[site.step.output]]
                found[site.index] = (self.folded.site_of[step.index], step.vals[0].dim())
        read = self._read()
        tied: dict[int, list[int]] = {}
        for item in self.program.inputs:
            if item.is_state and item.target is not None and item.name in inputs:
                site = self.folded.site_of[inputs[item.name].index]
                tied.setdefault(id(self.program.weights[item.target].tensor), []).append(site)
        for sites in tied.values():
            # A chain from the names that something reads to those that nothing does: what readers ask for is passed on.
            chain = sorted(dict.fromkeys(sites), key=lambda site: site in read)
            for leader, site in itertools.pairwise(chain):
                found[site] = (leader, self.folded.sites[site].step.vals[0].dim())
        return found

    def _read(self) -> set[int]:
        """Sites that something reads."""
        return {source for site in self.folded.sites for sources in site.reads for source, _ in sources}

    def _unread(self) -> set[int]:
        """Placeholders that nothing reads, under their own name or that of a tensor they are tied to."""
        linked = {site for output, (placeholder, _) in self.links.items() for site in (output, placeholder)}
        inputs = {site.index for site in self.folded.sites if site.step.kind == "input"}
        return inputs - self._read() - linked

    def _free_state(self) -> set[int]:
        return {
            site.index
            for site in self.folded.sites
            if site.step.kind == "input"
            and (item := self.kinds.get(site.step.node.name)) is not None
            and item.is_state
            and (item.name not in self.pins.state or item.name in self.pins.free_cut)
        }

    def _pinned(self, site: Site) -> Layout | None:
        step = site.step
        if step.kind == "constraint":
            return self._resolved(step.layout or REPLICATE, step, step.key)
        if step.kind == "output":
            return None
        if step.kind != "input" or site.index in self.free_state:
            return None
        item = self.kinds.get(step.node.name)
        if item is None:
            return REPLICATE
        if item.is_state:
            return self.pins.state[item.name]
        return self._resolved(self.pins.inputs.get(item.name, REPLICATE), step, item.name)

    def _resolved(self, layout: Layout, step: Step, key: str) -> Layout:
        try:
            return resolve(layout, tensor_meta(step.vals[0]).shape, self.num_ranks)
        except LayoutError as error:
            raise PlanError(f"{key!r}: {error}\n  at {describe(step.node)}") from error

    def _strategies(self, site: Site) -> list[Strategy]:
        step = site.step
        if step.kind in ("input", "output"):
            return []
        rule = self.rules[site.index]
        if step.kind == "constraint":
            layout = self._pinned(site)
            assert layout is not None, "a constraint has a layout"
            return [Strategy((), (layout,), (layout,))]
        if rule is None:
            return [Strategy((), (REPLICATE,) * len(site.reads), (REPLICATE,) * max(len(step.vals), 1))]
        if self.num_ranks == 1:
            return [whole_strategy(rule)]
        may_cut = not any(one.node.name in self.uncut for one in site.steps)
        cut = site_strategies(self.candidates, site, rule) if may_cut else []
        found = [*(one for one in cut if _can_be_reduced(one, step)), whole_strategy(rule), *partial_strategies(rule)]
        inside = self._ways_inside(site) if may_cut and is_region_call(step.node) else []
        return list(dict.fromkeys([*found, *inside]))

    def _ways_inside(self, site: Site) -> list[Strategy]:
        """The strategies of a call whose regions communicate: where weights that the plan cuts go into it."""
        values = [next(iter(sources)) for sources in site.reads]
        choices = [self._given(value) for value in values]
        weights = frozenset(i for i, (source, _) in enumerate(values) if self._is_weight(source))
        found = read_regions(site.step.node)
        if self.auto:
            free = frozenset(i for i in weights if values[i][0] in self.free_state)
            alone = partial(assign_layouts, pins=Pins(), num_ranks=self.num_ranks, auto=True)
            for i, layout in cuts_inside(found, free, alone).items():
                choices[i] = [layout]
                self.candidates.add(values[i], layout)
        if not any(isinstance(choices[i][0], Shard) for i in weights):
            return []
        solver = region_solver(self.num_ranks)
        ways = dict(ways_inside(site.step.node, found, choices, weights, site.step.vals, solver))
        self.talk_us.update({(site.index, way): talk for way, talk in ways.items()})
        return list(ways)

    def _is_weight(self, source: int) -> bool:
        step = self.folded.sites[source].step
        return step.kind == "input" and step.node.name in self.weights

    def _given(self, value: tuple[int, int]) -> list[Layout]:
        """The layouts in which a region may take an operand: a pinned weight's own, others whole or cut."""
        site = self.folded.sites[value[0]]
        cuts = self.candidates.layouts(value, site.step.vals[value[1]].dim())
        if not self._is_weight(site.index):
            return [REPLICATE, *cuts]
        pinned = {**self.pins.inputs, **self.pins.state}.get(site.step.node.name, REPLICATE)
        if site.step.node.name not in self.pins.free_cut or not isinstance(pinned, Shard):
            return [pinned]
        own: list[Layout] = [cut for cut in cuts if isinstance(cut, Shard) and cut.dim == pinned.dim]
        return own or [Shard(pinned.dim, Cut.even(site.step.vals[0].shape[pinned.dim], self.num_ranks))]

    def _add_input_strategies(self) -> None:
        wanted: dict[int, dict[Layout, None]] = {}
        for site in self.folded.sites:
            for position, sources in enumerate(site.reads):
                if position in site.step.unread:
                    continue
                for source, _ in sources:
                    layouts = (s.operands[position] for s in self.strategies[site.index])
                    wanted.setdefault(source, {}).update(dict.fromkeys(layouts))
        mutated = {site for placeholder, _ in self.links.values() for site in (placeholder, *self.links)}
        for site in self.folded.sites:
            step = site.step
            if step.kind == "input":
                pinned = self._pinned(site)
                options = [pinned] if pinned is not None else self._free_layouts(site, wanted, site.index in mutated)
                self.strategies[site.index] = [Strategy((), (), (layout,)) for layout in options]
        for site in self.folded.sites:
            if site.step.kind == "output":
                self.strategies[site.index] = [Strategy((), (o,), ()) for o in self._output_layouts(site)]

    def _free_layouts(self, site: Site, wanted: Mapping[int, Mapping[Layout, None]], is_mutated: bool) -> list[Layout]:
        if self.num_ranks == 1:
            return [REPLICATE]
        value = site.step.vals[0]
        cuts = self.candidates.layouts((site.index, 0), value.dim())
        options: list[Layout] = [REPLICATE, *cuts]
        if site.index in self.unread:
            # Nothing reads it (a tower that the example never enters), so any cut of it costs nothing.
            longest = max(range(value.dim()), key=lambda dim: size_hint(value.shape[dim], self.fake_mode), default=None)
            if longest is not None and isinstance(size := value.shape[longest], int) and size >= self.num_ranks:
                options = [Shard(longest, Cut.even(size, self.num_ranks))]
        if (
            not is_mutated
            and value.is_floating_point()
            and is_reducible(value.dtype, "sum")
            and Partial() in wanted.get(site.index, {})
        ):
            options.append(Partial())
        if site.step.node.name in self.pins.free_cut:
            dim = self.pins.state[site.step.node.name]
            assert isinstance(dim, Shard), "a free cut is a shard"
            options = [option for option in cuts if isinstance(option, Shard) and option.dim == dim.dim]
            if not options and isinstance(size := value.shape[dim.dim], int):
                # Nothing in the graph says how to cut it: nothing reads it, or only what has no rule.
                options = [Shard(dim.dim, Cut.even(size, self.num_ranks))]
            if site.step.node.name in self.pins.may_stay_whole:
                options.append(REPLICATE)
        return options

    def _output_layouts(self, site: Site) -> list[Layout]:
        link = self.links.get(site.index)
        if link is not None:
            return [s.results[0] for s in self.strategies[link[0]]]
        wish = self.pins.outputs.get(site.step.output, REPLICATE)
        source, result = site.step.reads[0]
        value = self.steps.items[source].vals[result]
        return [resolve(wish, tensor_meta(value).shape, self.num_ranks)]

    def problem(self, *, slack: float, budget: Budget) -> Problem:
        sites = [self._site_choices(site) for site in self.folded.sites]
        values, weights = [], self._made_of_weights()
        for (source, result, readers), count in self.folded.values.items():
            maker = self.folded.sites[source].step
            value = maker.vals[result] if result < len(maker.vals) else None
            if value is None:
                continue
            solvable = tuple(r for r in readers if self._reads(*r))
            if solvable:
                num_bytes = self._elements(value) * value.element_size()
                flags = {"is_bool": value.dtype == torch.bool, "is_weight": maker.index in weights}
                values.append(ValueFlow(count, source, result, solvable, num_bytes, **flags))
        ties = [(output, placeholder) for output, (placeholder, _) in self.links.items()]
        return Problem(self.num_ranks, sites, values, ties, self.cost, self.auto, slack, budget)

    def _reads(self, site: int, operand: int) -> bool:
        """Whether a site reads an operand's values, and has it moved to the layout it wants."""
        step = self.folded.sites[site].step
        return step.kind != "sizes" and operand not in step.unread

    def _made_of_weights(self) -> set[int]:
        """Steps that give parameters or what is made of nothing else: transposed, cast, stacked, dequantized ones.

        What is summed to fewer numbers (the norms of a weight) is none.
        """
        found: set[int] = set()
        for step in self.steps.items:
            item = self.kinds.get(step.node.name) if step.kind == "input" else None
            is_parameter = item is not None and (item.kind.name == "PARAMETER" or item.name in self.pins.weights)
            of_weights = step.kind == "call" and step.reads and all(s in found for s, _ in step.reads)
            if is_parameter or (of_weights and not self._is_sum(step)):
                found.add(step.index)
        return found

    def _is_sum(self, step: Step) -> bool:
        """Whether a call reduces what it reads to something smaller."""
        rule = self.rules[self.folded.site_of[step.index]]
        if rule is None or not rule.reduces:
            return False
        read = [self.steps.items[source].vals[result] for source, result in step.reads]
        made = max((self._elements(value) for value in step.vals if value is not None), default=0)
        return made < min((self._elements(value) for value in read if value is not None), default=0)

    def _elements(self, value: torch.Tensor) -> int:
        return math.prod(size_hint(size, self.fake_mode) for size in tensor_meta(value).shape)

    def _site_choices(self, site: Site) -> SiteChoices:
        step, rule = site.step, self.rules[site.index]
        strategies = self.strategies[site.index]
        weight_bytes = [0] * len(strategies)
        work = [0.0] * len(strategies)
        if step.kind == "input" and (item := self.kinds.get(step.node.name)) is not None and item.is_state:
            total = self._elements(step.vals[0]) * step.vals[0].element_size()
            weight_bytes = [math.ceil(total * share(s.results[0])) for s in strategies]
            is_settled = len(strategies) == 1 and site.index in self.unread
            if is_settled or site.index in self.links or step.node.name in self.pins.may_stay_whole:
                # Its layout is not a matter of bytes, which shall not loosen (or tighten) the bound on the others'; or
                # it is one tensor with another, whose bytes count.
                weight_bytes = [0] * len(strategies)
        elif step.kind == "call" and step.vals and step.node.target not in COLLECTIVES:
            moved: list[int] = [] if rule is not None and rule.moves else self._moved(step)
            products = 0
            if rule is not None:
                sizes = {name: size_hint(size, self.fake_mode) for name, size in rule.sizes.items()}
                products = sum(math.prod(sizes[name] for name in names) for names in rule.multiplied)
                if rule.multiplies == ():
                    given = moved[-1]
                    moved = [min(size, given) for size in moved]
            work = [self.cost.work_us(s, moved, products) for s in strategies]
        is_summed = bool(step.node.users) and all(user.target is all_reduce for user in step.node.users)
        talk = [self.talk_us.get((site.index, strategy), 0.0) for strategy in strategies]
        return SiteChoices(len(site.steps), strategies, work, weight_bytes, describe(step.node), is_summed, talk)

    def _moved(self, step: Step) -> list[int]:
        """The bytes of a step's whole operands, then results."""
        values = [
            None if number in step.unread else self.steps.items[source].vals[result]
            for number, (source, result) in enumerate(step.reads)
        ]
        values += list(step.vals)
        return [0 if v is None else self._elements(v) * v.element_size() for v in values]

    def fallbacks(self, chosen: Sequence[Strategy]) -> list[Fallback]:
        """What runs whole for want of a rule; a call whose regions communicate has another way."""
        return [
            Fallback.of(s.node, reason)
            for index, reason in self.reasons.items()
            if (index, chosen[index]) not in self.talk_us
            for s in self.folded.sites[index].steps
        ]


def _can_be_reduced(strategy: Strategy, step: Step) -> bool:
    """Whether the partial results of a call have dtypes that a collective can make whole, or stay with their ranks."""
    return all(
        not isinstance(layout, Partial) or layout.is_owned or val is None or is_reducible(val.dtype, layout.op)
        for layout, val in zip(strategy.results, step.vals, strict=True)
    )


def _is_uneven(size: Size, num_ranks: int) -> bool:
    return not isinstance(size, int) or size % num_ranks != 0
