"""Between the two matmuls of experts that are cut: rows that are right on the rank that owns their expert.

The first grouped matmul leaves every row to one rank. Reducing there would send all rows to all ranks; but what stands
between it and the second (an activation, a gate) works element by element, and the second reads of every rank's rows
those of its own experts. So such rows pass on as they are, in a layout ``Partial("rows of …")`` that no collective
leads to or from: only another grouped matmul with the same offsets and the same cut takes it.
"""

from collections.abc import Sequence
from dataclasses import replace

from shardwright.assign.folding import Folded, Site
from shardwright.assign.steps import Value
from shardwright.layout import OWNED, REPLICATE, Cut, Layout, Partial
from shardwright.rules.experts import EXPERTS, RULES
from shardwright.rules.registry import op_names
from shardwright.rules.rule import Rule, Strategy


def add_owned(folded: Folded, rules: Sequence[Rule | None], strategies: list[list[Strategy]]) -> None:
    """Add, in place, the strategies that make such rows, pass them on, and take them."""
    grouped = [site for site in folded.sites if _is_grouped(site)]
    if not grouped:
        return
    readers: dict[Value, list[tuple[int, int]]] = {}
    for site in folded.sites:
        for position, sources in enumerate(site.reads):
            for source in sources:
                readers.setdefault(source, []).append((site.index, position))
    for site in grouped:
        for strategy in list(strategies[site.index]):
            cut = strategy.cut(EXPERTS)
            if cut is None or strategy.operands[0] != REPLICATE:
                continue
            layout = _layout(site, cut)
            _extend(strategies, site, [replace(strategy, results=(layout,))])
            _pass_on(folded, rules, strategies, readers, site, layout, cut)


def _pass_on(
    folded: Folded,
    rules: Sequence[Rule | None],
    strategies: list[list[Strategy]],
    readers: dict[Value, list[tuple[int, int]]],
    maker: Site,
    layout: Partial,
    cut: Cut,
) -> None:
    held: set[Value] = {(maker.index, 0)}
    pending = [(maker.index, 0)]
    while pending:
        for index, _ in readers.get(pending.pop(), ()):
            site, rule = folded.sites[index], rules[index]
            if rule is None:
                continue
            operands = [layout if set(sources) & held else REPLICATE for sources in site.reads]
            if _is_grouped(site):
                if operands[0] == layout and _layout(site, cut) == layout:
                    own = [s for s in strategies[index] if s.cut(EXPERTS) == cut and s.operands[0] == REPLICATE]
                    _extend(strategies, site, [replace(s, operands=(layout, *s.operands[1:])) for s in own])
                continue
            if not _keeps_rows(rule, operands, layout):
                continue
            found = Strategy((), tuple(operands), (layout,) * len(rule.results))
            _extend(strategies, site, [found])
            fresh = {(index, number) for number in range(len(rule.results))} - held
            held |= fresh
            pending += sorted(fresh)


def _is_grouped(site: Site) -> bool:
    return hasattr(site.step.node.target, "_schema") and any(n in RULES for n in op_names(site.step.node.target))


def _layout(site: Site, cut: Cut) -> Partial:
    """The layout of rows that groups with these offsets leave: who owns a row follows from both."""
    (source, result), *_ = site.reads[2]
    return Partial(f"{OWNED} {source}.{result} on {cut.num_ranks} {cut.runs}")


def _keeps_rows(rule: Rule, operands: Sequence[Layout], layout: Layout) -> bool:
    """Whether a call gives each row of its results from the same row of the operands that hold such rows.

    Other operands may be anything whole: every rank has them.
    """
    if any(dims is None or not dims for dims in rule.results):
        return False
    first = rule.results[0][0]  # type: ignore[index]
    if len(first.factors) != 1 or first.factors[0] in rule.fixed or first.factors[0] in rule.reduces:
        return False
    if any(dims[0] != first for dims in rule.results if dims is not None):
        return False
    own = [dims for dims, one in zip(rule.operands, operands, strict=True) if one == layout]
    elsewhere = [term for dims in rule.operands for term in dims[1:]]
    return all(dims and dims[0] == first for dims in own) and not any(first.factors[0] in t.factors for t in elsewhere)


def _extend(strategies: list[list[Strategy]], site: Site, found: list[Strategy]) -> None:
    strategies[site.index] = list(dict.fromkeys([*strategies[site.index], *found]))
