"""Candidate cuts, discovered from the graph: which cuts of which dims are worth a strategy.

Every rule starts with its factors cut in equal chunks. A cut of a factor is a cut of each dim that carries it; a cut of
a dim is, where it fits, a cut of the factors of every other step that touches the value. Passing cuts back and forth
until nothing is new tells every dim what the graph says about it: a view to heads says "at multiples of the head", a
split says "these parts, each cut", a key-value group says "queries go with their keys". Cuts are compared by who owns
which index, so where sizes divide, all of these are one candidate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shardwright.assign.folding import Folded, Site
from shardwright.assign.steps import Value
from shardwright.layout import Cut, Layout, Shard, cut_of
from shardwright.rules.rule import Dims, Rule, Strategy, factor_cuts, strategy_for, term_cut

MAX_CUTS = 8
"""At most so many candidate cuts a dim; the first found stay."""

LARGE = 8000
"""A problem with more choices than this is thinned out before it is solved."""

MAX_STRUCTURES = 4
"""In a large problem, of a dim with more candidate cuts than this only the first stays."""

Choice = tuple[tuple[str, Cut], ...]
"""Factor cuts made together."""


@dataclass
class Candidates:
    """What the discovery knows: cuts of each dim of each value, and factor choices of each site."""

    num_ranks: int
    dims: dict[tuple[Value, int], dict[Cut, None]] = field(default_factory=dict)
    choices: list[dict[Choice, None]] = field(default_factory=list)
    tried: list[set[Choice]] = field(default_factory=list)
    """Choices of each site that were looked at, those that no strategy makes among them."""
    told: list[int] = field(default_factory=list)
    """How many choices of each site have become cuts of its dims."""

    def layouts(self, value: Value, ndim: int) -> list[Layout]:
        """Every candidate shard of a value."""
        return [Shard(dim, cut) for dim in range(ndim) for cut in self.dims.get((value, dim), ())]


def discover(
    folded: Folded,
    rules: list[Rule | None],
    links: Mapping[int, tuple[int, int]],
    pinned: Mapping[int, Layout],
    num_ranks: int,
    seeds: Callable[[Site, tuple[str, ...]], bool],
) -> Candidates:
    """Candidate cuts for every site. ``links``: site → (placeholder site of the same layout, number of dims),
    for the outputs that mutate buffers and for tied weights. ``seeds``: whether a factor group of a site is worth
    cutting for its own sake, rather than because a neighbour is cut.
    """
    sites = range(len(folded.sites))
    found = Candidates(num_ranks, choices=[{} for _ in sites], tried=[set() for _ in sites], told=[0 for _ in sites])
    neighbours = _neighbours(folded, links)
    for site, layout in pinned.items():
        if isinstance(layout, Shard):
            _note(found, (site, 0), layout.dim, cut_of(layout))
    for site in folded.sites:
        rule = rules[site.index]
        for group in rule.groups() if rule is not None else ():
            if seeds(site, group) and all(isinstance(rule.sizes[name], int) for name in group):  # type: ignore[union-attr]
                choice = {name: Cut.even(rule.sizes[name], num_ranks) for name in group}  # type: ignore[union-attr]
                _choose(found, site, rule, choice)  # type: ignore[arg-type]
    pending = dict.fromkeys(range(len(folded.sites)))
    while pending:
        index = next(iter(pending))
        del pending[index]
        site = folded.sites[index]
        changed = (
            _spread_link(found, site, links.get(index))
            if rules[index] is None
            else _spread(
                found,
                site,
                rules[index],  # type: ignore[arg-type]
            )
        )
        if changed:
            pending.update(dict.fromkeys(neighbours[index]))
            pending[index] = None
    _drop_excess(found, folded, rules, pinned)
    return found


def _drop_excess(found: Candidates, folded: Folded, rules: list[Rule | None], pinned: Mapping[int, Layout]) -> None:
    """In a large problem, a dim with many structures (slices at every step of an unrolled loop) has none.

    Small problems are solved exactly with all of them.
    """
    if sum(len(choices) for choices in found.choices) <= LARGE:
        return
    excess = {place for place, cuts in found.dims.items() if len(cuts) > MAX_STRUCTURES and place[0][0] not in pinned}
    for place in excess:
        first = next(iter(found.dims[place]))
        found.dims[place] = {first: None}
    for site in folded.sites:
        rule = rules[site.index]
        if rule is None:
            continue
        described = _sides(site, rule)
        found.choices[site.index] = {
            items: None
            for items in found.choices[site.index]
            if all(
                (cut := term_cut(term, dict(items), rule.sizes)) is None
                or any((value, dim) not in excess or cut in found.dims[(value, dim)] for value in values)
                for values, dims in described
                for dim, term in enumerate(dims)
            )
        }


def _neighbours(folded: Folded, links: Mapping[int, tuple[int, int]]) -> list[dict[int, None]]:
    near: list[dict[int, None]] = [{} for _ in folded.sites]
    readers: dict[int, dict[int, None]] = {}
    for site in folded.sites:
        for sources in site.reads:
            for source, _ in sources:
                near[site.index][source] = None
                near[source][site.index] = None
                readers.setdefault(source, {})[site.index] = None
    for site in folded.sites:
        for sources in site.reads:
            for source, _ in sources:
                near[site.index].update(readers[source])
    for output, (placeholder, _) in links.items():
        near[output][placeholder] = None
        near[placeholder][output] = None
    return near


def _note(found: Candidates, value: Value, dim: int, cut: Cut) -> bool:
    cuts = found.dims.setdefault((value, dim), {})
    if cut in cuts or len(cuts) >= MAX_CUTS or cut.largest_fraction >= 1:
        return False
    cuts[cut] = None
    return True


def _sides(site: Site, rule: Rule) -> list[tuple[list[Value], Dims]]:
    sides = [(list(sources), dims) for sources, dims in zip(site.reads, rule.operands, strict=True)]
    sides += [([(site.index, i)], dims) for i, dims in enumerate(rule.results) if dims is not None]
    return sides


def _spread(found: Candidates, site: Site, rule: Rule) -> bool:
    """Turn the cuts of a site's dims into factor choices, and those into cuts of its other dims."""
    joint = {name: group for group in rule.joint for name in group}
    parts: dict[str, dict[Cut, None]] = {}
    for values, dims in _sides(site, rule):
        for dim, term in enumerate(dims):
            for value in values:
                for cut in list(found.dims.get((value, dim), ())):
                    for choice in factor_cuts(term, cut, rule.sizes):
                        if len(choice) == 1 and next(iter(choice)) in joint:
                            name, part = next(iter(choice.items()))
                            parts.setdefault(name, {})[part] = None
                        else:
                            _choose(found, site, rule, choice)
    for group in rule.joint:
        _choose_joint(found, site, rule, group, parts)
    changed = False
    choices = found.choices[site.index]
    untold = list(choices)[found.told[site.index] :]
    found.told[site.index] = len(choices)
    for choice_items in untold:
        choice = dict(choice_items)
        for values, dims in _sides(site, rule):
            for dim, term in enumerate(dims):
                cut = term_cut(term, choice, rule.sizes)
                if cut is not None:
                    for value in values:
                        changed |= _note(found, value, dim, cut)
    return changed


def _choose_joint(
    found: Candidates, site: Site, rule: Rule, group: tuple[str, ...], parts: Mapping[str, Mapping[Cut, None]]
) -> None:
    """Combine what the parts of a packed dim know: their n-th candidates go together, the last one repeating."""
    known = []
    for name in group:
        size = rule.sizes[name]
        if not isinstance(size, int):
            return
        cuts = dict.fromkeys([Cut.even(size, found.num_ranks), *parts.get(name, ())])
        known.append(list(cuts))
    for position in range(max(len(cuts) for cuts in known)):
        _choose(
            found, site, rule, {n: cuts[min(position, len(cuts) - 1)] for n, cuts in zip(group, known, strict=True)}
        )


def _choose(found: Candidates, site: Site, rule: Rule, choice: Mapping[str, Cut]) -> None:
    items, tried = tuple(choice.items()), found.tried[site.index]
    if items in tried or len(found.choices[site.index]) >= 4 * MAX_CUTS:
        return
    tried.add(items)
    if any(name in rule.fixed for name in choice):
        return
    if min(cut.largest_fraction for cut in choice.values()) >= 1:
        return
    try:
        if strategy_for(rule, choice) is not None:
            found.choices[site.index][items] = None
    except ValueError:
        return


def _spread_link(found: Candidates, site: Site, link: tuple[int, int] | None) -> bool:
    """Values of one layout (a mutated buffer and its new value, tied weights) have the same candidate cuts."""
    if link is None:
        return False
    placeholder, num_dims = link
    changed = False
    own = list(site.reads[0]) if site.reads else [(site.index, 0)]
    values = [*own, (placeholder, 0)]
    for dim in range(num_dims):
        cuts = dict.fromkeys(cut for value in values for cut in found.dims.get((value, dim), ()))
        for value in values:
            for cut in cuts:
                changed |= _note(found, value, dim, cut)
    return changed


def site_strategies(found: Candidates, site: Site, rule: Rule) -> list[Strategy]:
    """The strategies that cut a site's factors, in order of discovery."""
    made = (strategy_for(rule, dict(choice)) for choice in found.choices[site.index])
    return list(dict.fromkeys(strategy for strategy in made if strategy is not None))
