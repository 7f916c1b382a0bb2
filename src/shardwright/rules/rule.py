"""What a rule is: how an operator's factors lie in its operands and results.

A *factor* is a named index of an operator, as in einsum. Every dim of every operand and result is a `Term`: a product
of factors (``(h d)``: one dim that enumerates h, then d), or a sum of factors (``[q+k+v]``: parts laid end to end).
A rule states which factors may be cut and what that makes of the dims. It never communicates and never looks at ranks.

Cutting factor ``f`` by cut ``c`` gives (see `strategy_for`):

- an operand or result with ``f`` in the product dim ``(a f b)``: ``Shard(dim, c tiled |a| times, scaled by |b|)``;
- an operand without ``f``: ``Replicate``, or ``Partial("sum")`` when it is *added* to what ``f`` sums up (a bias);
- a result without ``f``: ``Partial(op)``, ``op`` being how the operator reduces ``f``.

Of factors that are cut together some may be whole: keys and values that all ranks share, beside queries that are cut.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Owned, Partial, Shard
from shardwright.layout.sizes import Size, product
from shardwright.program.torch_private import schema_of


@dataclass(frozen=True, slots=True)
class Term:
    """One dim: the product of its factors, in order, or (``is_sum``) its factors laid end to end."""

    factors: tuple[str, ...] = ()
    is_sum: bool = False

    def __str__(self) -> str:
        if self.is_sum:
            return f"[{'+'.join(self.factors)}]"
        return self.factors[0] if len(self.factors) == 1 else f"({' '.join(self.factors)})" if self.factors else "1"


SCATTERED = Owned()
"""Each entry is right on one rank, and no rank knows which."""

Dims = tuple[Term, ...]
"""The dims of one operand or result."""


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Global shape and dtype of one tensor."""

    shape: tuple[Size, ...]
    dtype: torch.dtype = torch.float32

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call as rules see it: global metadata in place of tensors, sizes in place of symbolic ints.

    ``arguments``: every argument of the operator's schema by name, defaults filled in, `TensorMeta` for tensors.
    ``operands``: the tensors among them in schema order, lists flattened, absent ones left out.
    ``results``: one entry a result tensor; None for a result that is not a tensor.
    """

    op: Any
    arguments: Mapping[str, Any]
    operands: tuple[TensorMeta, ...]
    results: tuple[TensorMeta | None, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def schema_name(self) -> str:
        """The operator without its overload, ``aten::linear``."""
        return schema_of(self.op).name

    @property
    def result(self) -> TensorMeta:
        """The first result."""
        assert self.results[0] is not None, f"{self.op} has no tensor result"
        return self.results[0]


class Local(Protocol):
    """One rank's side of a call, given to a localizer.

    ``arguments`` are the call's arguments with this rank's tensors (and symbolic ints) in place. `run` runs or emits
    an operator and returns its value; `rank_value` gives a 0-d tensor holding this rank's entry of ``per_rank``, so
    that the code is the same on every rank and only data differs. ``rank`` is for lengths of pieces alone: ranks with
    pieces as long share their code. Where they start is what `ranges` says.
    """

    call: Call
    rule: "Rule"
    strategy: "Strategy"
    rank: int
    arguments: dict[str, Any]

    def run(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run or emit ``op`` on local values."""
        ...

    def run_call(self, /, **changed: Any) -> Any:
        """Run or emit the call's own operator on the local arguments, some of them changed."""
        ...

    def is_dense(self, value: Any) -> bool:
        """Whether a local tensor is contiguous in memory."""
        ...

    def ranges(self, cut: Cut) -> list[tuple[int, int]]:
        """The ranges of indices that this rank owns."""
        ...

    def rank_value(self, per_rank: Sequence[float], dtype: torch.dtype) -> Any:
        """A 0-d tensor with this rank's number."""
        ...


Localizer = Callable[[Local], Any]
"""Emits one rank's side of a call, where plain size arguments do not suffice."""


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Rows that lie group by group. ``factor``: of the groups. ``rows``, ``offsets``: the numbers of the operand that
    holds the rows, and of the one that holds where each group ends.
    """

    factor: str
    rows: int
    offsets: int


@dataclass(frozen=True, slots=True)
class Rule:
    """How one call's factors lie in its operands and results.

    ``sizes``: the global size of each factor. ``fixed``: factors that may not be cut. ``joint``: factors that are cut
    together or not at all. ``reduces``: factors absent from every result, and the reduction that removes each.
    ``dropped``: factors absent from every result because the call leaves them out (a slice).
    A factor may be carried by one result and reduced in another (a gradient of a weight).
    ``added``: operands added to what is reduced (a bias).
    ``independent``: results that are the same whatever is cut.
    ``pieces``: factors with one index for each rank's piece of another factor: that factor, and the only cut of it that
    is meant.
    ``scattered``: results whose entries are each right on one rank where a factor is reduced, so that nothing can read
    them. ``linear``: sets of operands in which the call is jointly
    linear, so ``Partial("sum")`` operands give a ``Partial("sum")`` result. ``moves``: the call only moves data, so
    any reduction passes. ``multiplies``: the factors of each product it computes, one multiply-add an index of all of
    them; absent: all factors where something is reduced. ``()`` is a lookup, which reads as much as it gives.
    ``size_arg``: the argument that gives the result's shape. ``localize``: emits one rank's
    side where needed; ``localize_whole``: also where nothing is cut, as memory may lie otherwise than the original's.
    ``is_written_out``: everywhere, as the operator is the compiler's own. ``draws``: it takes random numbers, as many
    on every rank, also on one without a share of the call.
    ``row_groups``: where rows lie in groups and ranks have some of these, each rank gives the rows of its own.
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims | None, ...]
    sizes: Mapping[str, Size]
    fixed: frozenset[str] = frozenset()
    joint: tuple[tuple[str, ...], ...] = ()
    reduces: Mapping[str, str] = field(default_factory=dict)
    added: frozenset[int] = frozenset()
    dropped: frozenset[str] = frozenset()
    pieces: Mapping[str, tuple[str, Cut]] = field(default_factory=dict)
    linear: tuple[frozenset[int], ...] = ()
    independent: frozenset[int] = frozenset()
    scattered: frozenset[int] = frozenset()
    moves: bool = False
    multiplies: tuple[tuple[str, ...], ...] | None = None
    size_arg: str | None = None
    localize: Localizer | None = None
    localize_whole: bool = False
    is_written_out: bool = False
    draws: bool = False
    row_groups: RowGroups | None = None

    def __str__(self) -> str:
        def dims(side: Sequence[Dims | None]) -> str:
            return ", ".join("-" if one is None else " ".join(map(self._format, one)) for one in side)

        return f"{dims(self.operands)} -> {dims(self.results)}"

    def _format(self, term: Term) -> str:
        marked = tuple(name + "!" if name in self.fixed else name for name in term.factors)
        return str(Term(marked, term.is_sum))

    @property
    def multiplied(self) -> tuple[tuple[str, ...], ...]:
        """The factors of each product it computes."""
        if self.multiplies is not None:
            return self.multiplies
        has_parts = any(term.is_sum for dims in self.operands for term in dims)
        return (tuple(self.sizes),) if self.reduces and not has_parts else ()

    def groups(self) -> list[tuple[str, ...]]:
        """The sets of factors that are cut together, in a fixed order; fixed factors and size-1 factors left out."""
        joined = {name for group in self.joint for name in group}
        singles = [(name,) for name in self.sizes if name not in joined]
        groups = [*singles, *self.joint]
        return [g for g in groups if not any(n in self.fixed for n in g) and any(self.sizes[n] != 1 for n in g)]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One choice for a call: which factors are cut and how, and the layouts that follow.

    No cuts: the call runs whole on every rank, or lets partial sums through.
    """

    cuts: tuple[tuple[str, Cut], ...]
    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]

    @property
    def fraction(self) -> float:
        """The share of the call's work that the busiest rank does."""
        return max((cut.largest_fraction for _, cut in self.cuts), default=1.0)

    def factor_cut(self, factor: str) -> Cut | None:
        """The cut of one factor; None when it is whole."""
        return dict(self.cuts).get(factor)


def term_cut(term: Term, cuts: Mapping[str, Cut], sizes: Mapping[str, Size]) -> Cut | None:
    """The cut of a dim when its factors are cut so; None when the dim is whole.

    Raises ValueError when two factors of one product are cut, which no layout expresses.
    """
    touched = [name for name in term.factors if name in cuts]
    if not touched:
        return None
    if term.is_sum:
        if len(touched) != len(term.factors):
            raise ValueError(f"{term}: the parts of a dim are cut together")
        parts = [cuts[name] for name in term.factors]
        if not all(part.is_concrete for part in parts):
            raise ValueError(f"{term}: where parts of unknown sizes meet is not known")
        joined = Cut.join(parts)
        return None if joined.is_whole else joined
    if len(touched) != 1:
        raise ValueError(f"{term}: two factors of one dim are cut")
    position = term.factors.index(touched[0])
    before = product(sizes[name] for name in term.factors[:position])
    after = product(sizes[name] for name in term.factors[position + 1 :])
    cut = cuts[touched[0]].scale(after).tile(before)
    return None if cut.is_whole else cut


def factor_cuts(term: Term, cut: Cut, sizes: Mapping[str, Size]) -> list[dict[str, Cut]]:
    """Which factor cuts make this cut of a dim: the inverse of `term_cut`, one entry a possibility."""
    if term.is_sum:
        if not cut.is_concrete:
            return []
        parts, position = {}, 0
        for name in term.factors:
            size = sizes[name]
            if not isinstance(size, int):
                return []
            parts[name] = cut.slice(position, position + size)
            position += size
        return [parts]
    found = []
    for position, name in enumerate(term.factors):
        inner = cut.unscale(product(sizes[n] for n in term.factors[position + 1 :]))
        whole = inner and inner.untile(product(sizes[n] for n in term.factors[:position]))
        if whole is not None:
            found.append({name: whole})
    return found


def strategy_for(rule: Rule, cuts: Mapping[str, Cut]) -> Strategy | None:
    """The strategy that cuts these factors; None when no layout expresses it."""

    def side(dims: Dims) -> Layout | None:
        found = [(dim, cut) for dim, term in enumerate(dims) if (cut := term_cut(term, cuts, rule.sizes)) is not None]
        if len(found) > 1:
            raise ValueError("one tensor is cut on two dims")
        return Shard(*found[0]) if found else None

    for piece, (name, cut) in rule.pieces.items():
        if name in cuts and cuts[name] != cut:
            return None
        if name in cuts:
            cuts = {**cuts, piece: Cut.even(cut.num_ranks, cut.num_ranks)}
    if any(cut.is_shared and name in rule.reduces for name, cut in cuts.items()):
        # What every rank holds would be counted once a rank.
        return None
    reductions = {rule.reduces[name] for name in cuts if name in rule.reduces}
    if any(name not in rule.reduces and name not in rule.dropped and not _carried(rule, name) for name in cuts):
        return None
    try:
        operands = [side(dims) for dims in rule.operands]
        results = [None if dims is None else side(dims) for dims in rule.results]
    except ValueError:
        return None
    for index, layout in enumerate(operands):
        if layout is None:
            is_added = index in rule.added and reductions
            operands[index] = Partial("sum") if is_added else REPLICATE
    for index, layout in enumerate(results):
        dims = rule.results[index]
        if layout is None and dims is not None:
            if any(name in cuts for term in dims for name in term.factors):
                # A result with this factor that the strategy leaves whole.
                results[index] = REPLICATE
                continue
            if index in rule.independent or (not reductions and all(name in rule.dropped for name in cuts)):
                results[index] = REPLICATE
                continue
            if len(reductions) != 1:
                return None
            results[index] = SCATTERED if index in rule.scattered else Partial(next(iter(reductions)))
    if reductions and rule.added and reductions != {"sum"}:
        return None
    return Strategy(
        tuple(cuts.items()), tuple(o or REPLICATE for o in operands), tuple(r or REPLICATE for r in results)
    )


def _carried(rule: Rule, name: str) -> bool:
    return name in rule.pieces or any(
        name in term.factors for dims in rule.results if dims is not None for term in dims
    )


def whole_strategy(rule: Rule) -> Strategy:
    """Everything replicated."""
    return Strategy((), (REPLICATE,) * len(rule.operands), (REPLICATE,) * len(rule.results))


def partial_strategies(rule: Rule, reductions: Sequence[str] = ("sum",)) -> list[Strategy]:
    """The strategies that let partial values through: each jointly linear operand set, or any reduction for moves."""
    sets = [(frozenset(range(len(rule.operands))), op) for op in reductions] if rule.moves and rule.operands else []
    sets += [(operands, "sum") for operands in rule.linear if (operands, "sum") not in sets]
    return [
        Strategy(
            (),
            tuple(Partial(op) if index in operands else REPLICATE for index in range(len(rule.operands))),
            tuple(Partial(op) for _ in rule.results),
        )
        for operands, op in sets
    ]
