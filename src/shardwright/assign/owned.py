"""Between the two matmuls of experts that are cut: rows that are right on the rank that owns their expert.

The first grouped matmul leaves every row to one rank. Reducing there would send all rows to all ranks; but what stands
between it and the second (an activation, a gate) works row by row, and the second reads of every rank's rows those of
its own experts. So such rows pass on as they are, in a layout `Owned` that no collective leads to or
from: only another grouped matmul with the same offsets and the same cut takes it.

Offsets are compared step by step, not site by site: folded layers share their strategies, but each may have groups of
its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shardwright.assign.folding import Folded, Site
from shardwright.assign.steps import Step, Steps, Value, consumers
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Owned
from shardwright.rules.rule import RowGroups, Rule, Strategy


def add_owned(steps: Steps, folded: Folded, rules: Sequence[Rule | None], strategies: list[list[Strategy]]) -> None:
    """Add, in place, the strategies that make such rows, pass them on, and take them."""
    makers: dict[tuple[tuple[Value, ...], Cut], list[Site]] = {}
    for site in folded.sites:
        groups = _row_groups(rules[site.index])
        if groups is not None:
            offsets = tuple(step.reads[groups.offsets] for step in site.steps)
            cuts = {strategy.factor_cut(groups.factor): None for strategy in strategies[site.index]}
            for cut in cuts:
                if cut is not None:
                    makers.setdefault((offsets, cut), []).append(site)
    if not makers:
        return
    readers = consumers(steps)
    for number, ((_, cut), sites) in enumerate(makers.items()):
        layout = Owned(number)
        _Rows(folded, rules, strategies, layout, cut).spread(sites, readers)


@dataclass
class _Rows:
    """Rows passed on in one layout. ``owner``: value → the offsets that say which rank each of its rows is on."""

    folded: Folded
    rules: Sequence[Rule | None]
    strategies: list[list[Strategy]]
    layout: Owned
    cut: Cut
    owner: dict[Value, Value] = field(default_factory=dict)

    def spread(self, makers: Sequence[Site], readers: Mapping[Value, list[tuple[int, int]]]) -> None:
        """Add the strategies of all that makes, passes on or takes these rows."""
        for site in makers:
            groups = _row_groups(self.rules[site.index])
            assert groups is not None, "makers of such rows have groups"
            self._add(site, [replace(one, results=(self.layout,)) for one in self._by_group(site, groups)])
            self.owner.update(((step.index, 0), step.reads[groups.offsets]) for step in site.steps)
        pending = list(self.owner)
        while pending:
            for index, _ in readers.get(pending.pop(), ()):
                pending += self._pass_on(self.folded.sites[self.folded.site_of[index]])

    def _pass_on(self, site: Site) -> list[Value]:
        """Add the strategies of a site that reads such rows; the values that are such rows now."""
        rule = self.rules[site.index]
        held = self._held(site.step)
        if rule is None or not all(self._agrees(step, held) for step in site.steps):
            return []
        operands = [self.layout if one else REPLICATE for one in held]
        if rule.row_groups is not None:
            self._take(site, rule.row_groups, held)
            return []
        if not _keeps_rows(rule, operands, self.layout):
            return []
        self._add(site, [Strategy((), tuple(operands), (self.layout,) * len(rule.results))])
        fresh = []
        for step in site.steps:
            (offsets,) = self._offsets(step)
            results = ((step.index, number) for number in range(len(rule.results)))
            fresh += [value for value in results if value not in self.owner]
            self.owner.update(((step.index, number), offsets) for number in range(len(rule.results)))
        return fresh

    def _take(self, site: Site, groups: RowGroups, held: Sequence[bool]) -> None:
        """Add the strategies of a call with groups that reads such rows, where they are of its own groups."""
        fits = all(self.owner.get(step.reads[groups.rows]) == step.reads[groups.offsets] for step in site.steps)
        if fits and sum(held) == 1:
            for one in self._by_group(site, groups):
                operands = list(one.operands)
                operands[groups.rows] = self.layout
                self._add(site, [replace(one, operands=tuple(operands))])

    def _agrees(self, step: Step, held: Sequence[bool]) -> bool:
        """Whether a member reads such rows where the site's first does, all of them of the same groups."""
        return self._held(step) == list(held) and len(self._offsets(step)) == 1

    def _held(self, step: Step) -> list[bool]:
        """Which operands a step reads as such rows."""
        return [value in self.owner and number not in step.unread for number, value in enumerate(step.reads)]

    def _offsets(self, step: Step) -> set[Value]:
        return {self.owner[value] for value, held in zip(step.reads, self._held(step), strict=True) if held}

    def _by_group(self, site: Site, groups: RowGroups) -> list[Strategy]:
        cut = [one for one in self.strategies[site.index] if one.factor_cut(groups.factor) == self.cut]
        return [one for one in cut if one.operands[groups.rows] in (REPLICATE, self.layout)]

    def _add(self, site: Site, found: Sequence[Strategy]) -> None:
        self.strategies[site.index] = list(dict.fromkeys([*self.strategies[site.index], *found]))


def _row_groups(rule: Rule | None) -> RowGroups | None:
    return None if rule is None else rule.row_groups


def _keeps_rows(rule: Rule, operands: Sequence[Layout], layout: Layout) -> bool:
    """Whether a call gives each row of its results from the same row of the operands that hold such rows.

    Other operands may be anything whole: every rank has them.
    """
    if any(not dims for dims in rule.results):
        return False
    first = rule.results[0][0]  # type: ignore[index]
    if len(first.factors) != 1 or first.factors[0] in rule.fixed or first.factors[0] in rule.reduces:
        return False
    if any(dims[0] != first for dims in rule.results if dims is not None):
        return False
    own = [dims for dims, one in zip(rule.operands, operands, strict=True) if one == layout]
    elsewhere = [term for dims in rule.operands for term in dims[1:]]
    return all(dims and dims[0] == first for dims in own) and not any(first.factors[0] in t.factors for t in elsewhere)
