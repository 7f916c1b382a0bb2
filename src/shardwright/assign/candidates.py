"""Candidate cuts, discovered from the graph: which cuts of which dims are worth a strategy.

Every rule starts with its factors cut in equal chunks. A cut of a factor is a cut of each dim that carries it; a cut of
a dim is, where it fits, a cut of the factors of every other step that touches the value. Passing cuts back and forth
until nothing is new tells every dim what the graph says about it: a view to heads says "at multiples of the head", a
split says "these parts, each cut", a key-value group says "queries go with their keys". Cuts are compared by who owns
which index, so where sizes divide, all of these are one candidate.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from shardwright.assign.bonds import Bonds
from shardwright.assign.folding import Folded, Site
from shardwright.assign.packed import DimCut, Pack, Sides, ValueDim, find_packs, joined_cuts
from shardwright.assign.steps import Value
from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout, Shard, cut_of
from shardwright.rules.rule import Rule, Strategy, factor_cuts, strategy_for, term_cut

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
    """What is found: cuts of each dim of each value, and factor choices of each site."""

    num_ranks: int
    dims: dict[ValueDim, dict[Cut, None]] = field(default_factory=dict)
    choices: list[dict[Choice, None]] = field(default_factory=list)
    tried: list[set[Choice]] = field(default_factory=list)
    """Choices of each site that were looked at, those that no strategy makes among them."""
    num_spread: list[int] = field(default_factory=list)
    """How many choices of each site have become cuts of its dims."""
    sides: list[Sides] = field(default_factory=list)
    """The operands and results of each site, as its rule names their dims; of one without a rule, none."""
    num_taken: list[dict[ValueDim, int]] = field(default_factory=list)
    """How many cuts of each dim that a site touches have become its choices."""
    bonds: Bonds[DimCut] = field(default_factory=Bonds)
    packs: list[Pack] = field(default_factory=list)

    def add(self, value: Value, layout: Shard) -> None:
        """A cut that is known from elsewhere."""
        self.dims.setdefault((value, layout.dim), {})[cut_of(layout)] = None

    def layouts(self, value: Value, ndim: int) -> list[Layout]:
        """Every candidate shard of a value."""
        return [Shard(dim, cut) for dim in range(ndim) for cut in self.dims.get((value, dim), ())]


def find_candidates(
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
    found = Candidates(
        num_ranks,
        choices=[{} for _ in sites],
        tried=[set() for _ in sites],
        num_spread=[0 for _ in sites],
        sides=[[] if rule is None else _sides(site, rule) for site, rule in zip(folded.sites, rules, strict=True)],
        num_taken=[{} for _ in sites],
    )
    neighbours = _neighbours(folded, links)
    for site, layout in pinned.items():
        if isinstance(layout, Shard):
            _note(found, (site, 0), layout.dim, cut_of(layout), is_asked=True)
    for site in folded.sites:
        rule = rules[site.index]
        for group in rule.groups() if rule is not None else ():
            if seeds(site, group) and all(isinstance(rule.sizes[name], int) for name in group):  # type: ignore[union-attr]
                choice = {name: Cut.even(rule.sizes[name], num_ranks) for name in group}  # type: ignore[union-attr]
                _choose(found, site, rule, choice)  # type: ignore[arg-type]
    joining = [(s, rule) for s, rule in zip(folded.sites, rules, strict=True) if rule is not None and rule.joint]
    found.packs = find_packs((rule, found.sides[site.index]) for site, rule in joining)
    pending = dict.fromkeys(sites)
    while pending:
        _settle(found, folded, rules, links, neighbours, pending)
        # What all parts of a dim agree on may settle another; where nothing does, some parts go ahead.
        places = _join_packs(found, agreed=True) or _join_packs(found, agreed=False)
        for (index, _), _ in places:
            pending.update(dict.fromkeys([index, *neighbours[index]]))
    _drop_excess(found, folded, rules, pinned)
    return found


def _settle(
    found: Candidates,
    folded: Folded,
    rules: list[Rule | None],
    links: Mapping[int, tuple[int, int]],
    neighbours: list[dict[int, None]],
    pending: dict[int, None],
) -> None:
    """Pass cuts back and forth until no pending site has anything new to say."""
    while pending:
        index = next(iter(pending))
        del pending[index]
        site, rule = folded.sites[index], rules[index]
        changed = _spread_link(found, site, links.get(index)) if rule is None else _spread(found, site, rule)
        if changed:
            pending.update(dict.fromkeys(neighbours[index]))
            pending[index] = None


def _join_packs(found: Candidates, *, agreed: bool) -> list[ValueDim]:
    """Note the cuts of packed dims that bound cuts of their parts make; where there was something new to note."""
    places: dict[ValueDim, None] = {}
    num_joins = -1
    while num_joins != found.bonds.num_joins:
        num_joins = found.bonds.num_joins
        for pack in found.packs:
            for cut in joined_cuts(pack, found.dims, found.bonds, found.num_ranks, agreed=agreed):
                if _note(found, *pack.dim, cut):
                    places[pack.dim] = None
    return list(places)


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
        found.choices[site.index] = {
            items: None
            for items in found.choices[site.index]
            if all(
                (cut := term_cut(term, dict(items), rule.sizes)) is None
                or any((value, dim) not in excess or cut in found.dims[(value, dim)] for value in values)
                for values, dims in found.sides[site.index]
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
    linked: dict[int, list[int]] = {}
    for follower, (placeholder, _) in links.items():
        linked.setdefault(placeholder, [placeholder]).append(follower)
    for group in linked.values():
        for index in group:
            near[index].update((other, None) for other in group if other != index)
    return near


def _note(found: Candidates, value: Value, dim: int, cut: Cut, *, is_asked: bool = False) -> bool:
    """Note a candidate cut; whether it is new. ``is_asked``: also one that leaves all to one rank, as the only token
    of a sequence that the plan cuts: nothing is gained by it, but what is pinned so passes on.
    """
    cuts = found.dims.setdefault((value, dim), {})
    if cut in cuts or len(cuts) >= MAX_CUTS or (cut.largest_fraction >= 1 and not is_asked):
        return False
    cuts[cut] = None
    return True


def _sides(site: Site, rule: Rule) -> Sides:
    sides: Sides = [(list(sources), dims) for sources, dims in zip(site.reads, rule.operands, strict=True)]
    sides += [([(site.index, i)], dims) for i, dims in enumerate(rule.results) if dims is not None]
    return sides


def _spread(found: Candidates, site: Site, rule: Rule) -> bool:
    """Turn the cuts of a site's dims into factor choices, and those into cuts of its other dims; each of them once."""
    joint = {name for group in rule.joint if len(group) > 1 for name in group}
    _take(found, site, rule, joint)
    changed = False
    choices = found.choices[site.index]
    unspread = list(choices)[found.num_spread[site.index] :]
    found.num_spread[site.index] = len(choices)
    for choice_items in unspread:
        choice = dict(choice_items)
        cuts: list[tuple[ValueDim, Cut]] = []
        for values, dims in found.sides[site.index]:
            for dim, term in enumerate(dims):
                cut = term_cut(term, choice, rule.sizes)
                if cut is not None:
                    cuts += [((value, dim), cut) for value in values]
        is_asked = _leaves_all_to_one(choice)
        for (value, dim), cut in cuts:
            changed |= _note(found, value, dim, cut, is_asked=is_asked)
        if not choice.keys() & joint:
            found.bonds.join(cuts)
    return changed


def _take(found: Candidates, site: Site, rule: Rule, joint: Collection[str]) -> None:
    """Make choices of the cuts of a site's dims that are new since the last call for it.

    ``joint``: the factors that are parts of a packed dim.
    """
    num_taken = found.num_taken[site.index]
    for values, dims in found.sides[site.index]:
        for dim, term in enumerate(dims):
            for value in values:
                cuts = list(found.dims.get((value, dim), ()))
                for cut in cuts[num_taken.get((value, dim), 0) :]:
                    for choice in factor_cuts(term, cut, rule.sizes):
                        # What a part of a packed dim knows waits for what the others know.
                        if len(choice) > 1 or not choice.keys() & joint:
                            _choose(found, site, rule, choice, is_asked=cut.largest_fraction >= 1)
    for values, dims in found.sides[site.index]:
        for dim in range(len(dims)):
            num_taken.update(((value, dim), len(found.dims.get((value, dim), ()))) for value in values)


def _choose(found: Candidates, site: Site, rule: Rule, choice: Mapping[str, Cut], *, is_asked: bool = False) -> None:
    items, tried = tuple(choice.items()), found.tried[site.index]
    if items in tried or len(found.choices[site.index]) >= 4 * MAX_CUTS:
        return
    tried.add(items)
    if any(name in rule.fixed for name in choice):
        return
    if _leaves_all_to_one(choice) and not is_asked:
        return
    try:
        if strategy_for(rule, choice) is not None:
            found.choices[site.index][items] = None
    except ValueError:
        return


def _leaves_all_to_one(choice: Mapping[str, Cut]) -> bool:
    """Whether some rank holds all of every factor, so that nothing is shared out."""
    return min(cut.largest_fraction for cut in choice.values()) >= 1


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
                changed |= _note(found, value, dim, cut, is_asked=True)
        for cut in cuts:
            found.bonds.join(((value, dim), cut) for value in values)
    return changed


def site_strategies(found: Candidates, site: Site, rule: Rule) -> list[Strategy]:
    """The strategies that cut a site's factors, in order of discovery."""
    made = (strategy_for(rule, dict(choice)) for choice in found.choices[site.index])
    return list(dict.fromkeys(strategy for strategy in made if strategy is not None))
