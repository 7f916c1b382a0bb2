"""Heads that are fewer than the ranks: key-value heads of grouped-query attention, most often.

Cut at whole heads, such weights leave ranks idle; cut finer, they have to be gathered; whole, every rank holds all of
them. An expert does none of these, but cuts the axis in two, the heads on the first part, their queries on the second.
This module finds the heads; `compiler.split` tries the two axes.
"""

from collections.abc import Collection, Mapping, Sequence

from shardwright.assign.candidates import Candidates
from shardwright.assign.folding import Folded, Site
from shardwright.assign.steps import StepKind
from shardwright.layout.cut import Cut
from shardwright.layout.sizes import product
from shardwright.rules.rule import Rule, Term


def scarce_heads(
    folded: Folded,
    rules: Sequence[Rule | None],
    candidates: Candidates,
    free_state: Collection[int],
    num_ranks: int,
) -> dict[int, frozenset[str]]:
    """Number of heads → placeholders of the weights that hold them, for heads fewer than ``num_ranks``.

    Heads are the leading factor of a dim ``(h d)`` that is a dim of its own elsewhere in the same call. A weight holds
    them when its dim has the size of ``(h d)``, or of several such (keys and values), can be cut at whole heads, and is
    no dim that its reader sums over. Heads in a packed dim beside others that stay cut are found too, with no weight.
    """
    wanted: dict[tuple[int, Cut], int] = {}
    for rule in rules:
        for term, alone in _head_terms(rule) if rule is not None else ():
            heads, size = rule.sizes[alone], product(rule.sizes[name] for name in term.factors)  # type: ignore[union-attr]
            if isinstance(heads, int) and isinstance(size, int) and 1 < heads < num_ranks:
                wanted[(size, Cut.even(heads, num_ranks).scale(size // heads))] = heads
    found: dict[int, set[str]] = {}
    for pack in candidates.packs if wanted else ():
        for start, stop, holders in pack.parts:
            cuts = [cut for holder in holders for cut in candidates.dims.get(holder, ())]
            for heads in (wanted[stop - start, cut] for cut in cuts if (stop - start, cut) in wanted):
                found.setdefault(heads, set())
    for site in folded.sites if wanted else ():
        if site.step.kind is not StepKind.INPUT or site.index not in free_state:
            continue
        for dim, size in enumerate(site.step.vals[0].shape):
            for cut in candidates.dims.get(((site.index, 0), dim), ()):
                heads = _heads_of(cut, size, wanted) if isinstance(size, int) else None
                if heads is not None and not _is_summed(folded, rules, site, dim):
                    found.setdefault(heads, set()).update(step.node.name for step in site.steps)
    return {heads: frozenset(names) for heads, names in sorted(found.items())}


def _heads_of(cut: Cut, size: int, wanted: Mapping[tuple[int, Cut], int]) -> int | None:
    """How many scarce heads a dim has, once or several times over, when it is cut so."""
    for part in dict.fromkeys(part for part, _ in wanted):
        one = cut.untile(size // part) if size and size % part == 0 else None
        if one is not None and (part, one) in wanted:
            return wanted[part, one]
    return None


def _head_terms(rule: Rule) -> list[tuple[Term, str]]:
    """The dims ``(h …)`` of a rule, each with its leading factor, where that can be cut and is a dim elsewhere."""
    terms = [term for dims in (*rule.operands, *rule.results) if dims is not None for term in dims]
    alone = {term.factors[0] for term in terms if len(term.factors) == 1}
    found = []
    for term in terms:
        names = [name for name in term.factors if rule.sizes[name] != 1]
        if len(names) > 1 and not term.is_sum and names[0] in alone and names[0] not in rule.fixed:
            found.append((term, names[0]))
    return found


def _is_summed(folded: Folded, rules: Sequence[Rule | None], site: Site, dim: int) -> bool:
    """Whether a reader of a weight sums over one of its dims."""
    for reader in folded.sites:
        rule = rules[reader.index]
        if rule is None:
            continue
        for dims, sources in zip(rule.operands, reader.reads, strict=True):
            if (site.index, 0) in sources and any(name in rule.reduces for name in dims[dim].factors):
                return True
    return False
