"""Discovering a rule: run the operator on cut samples and see which recombination of the pieces gives the whole.

What is found holds for the samples; it is a proposal, checked on two rank counts and on fresh values, not a proof.
PyTorch validates DTensor's strategies in the same way (``torch.distributed.tensor._ops.strategy_validation``).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Layout, Shard
from shardwright.layout.pieces import take_shard
from shardwright.layout.reduce import reduce_shares
from shardwright.program.torch_private import schema_of
from shardwright.rules.call import bind_arguments, leaves, map_values, unbind_arguments
from shardwright.rules.check import split_sum

OperandDim = tuple[int, int]
"""(operand, dim) or (result, dim)."""

MAX_COMBINATIONS = 2000
"""Combinations of cut dims tried for one call."""

REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, NotImplementedError)
"""What operators raise when they are given pieces that do not fit."""

_RANKS = (2, 3)
_REDUCTIONS = ("sum", "max", "min")
"""Those that are looked for; a product of random pieces is too often 0 to be told apart."""


@dataclass(frozen=True, slots=True)
class Found:
    """One way to cut a call: dims of operands that are cut together, and what that makes of each result.

    ``results``: a dim, ``"whole"``, or the name of a reduction. ``added``: operands whose summands were spread over
    the ranks (a bias). ``sized``: whether a size argument was made local.
    """

    operands: tuple[OperandDim, ...]
    results: tuple[int | str, ...]
    added: tuple[int, ...] = ()
    sized: bool = False


@dataclass(frozen=True, slots=True)
class Discovery:
    """A rule in notation, as `shardwright.register_rule` takes it."""

    name: str
    notation: str
    linear: tuple[tuple[int, ...], ...] = ()
    added: tuple[int, ...] = ()
    reduce: str = "sum"
    size_arg: str | None = None

    @property
    def algebra(self) -> dict[str, Any]:
        """The keyword arguments of `shardwright.register_rule`."""
        return {"linear": self.linear, "added": self.added, "reduce": self.reduce, "size_arg": self.size_arg}

    def __str__(self) -> str:
        extra = [f", linear={[list(group) for group in self.linear]}"] if self.linear else []
        extra += [f", added={list(self.added)}"] if self.added else []
        extra += [f', reduce="{self.reduce}"'] if self.reduce != "sum" else []
        extra += [f', size_arg="{self.size_arg}"'] if self.size_arg else []
        return f'register_rule("{self.name}", "{self.notation}"{"".join(extra)})'


class _Sample:
    """One call with its whole results."""

    def __init__(self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.op = op
        self.arguments = bind_arguments(op, args, kwargs)
        self.operands = [v for v in leaves(list(self.arguments.values())) if isinstance(v, torch.Tensor)]
        result = op(*args, **kwargs)
        self.is_list = isinstance(result, (list, tuple))
        self.results = list(result) if self.is_list else [result]

    def run(self, operands: Sequence[torch.Tensor], **changed: Any) -> list[Any]:
        """The results on other operands."""
        given = iter(operands)
        arguments = {
            name: map_values(value, lambda v: next(given) if isinstance(v, torch.Tensor) else v)
            for name, value in self.arguments.items()
        }
        args, kwargs = unbind_arguments(self.op, {**arguments, **changed})
        result = self.op(*args, **kwargs)
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def redrawn(self) -> "_Sample | None":
        """The same call on fresh values: floats with other signs and digits, integers in another order."""
        generator = torch.Generator().manual_seed(7)

        def fresh(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            order = torch.randperm(value.numel(), generator=generator)
            mixed = value.reshape(-1)[order].reshape(value.shape)
            if not value.is_floating_point():
                return mixed
            return mixed * (1 + 0.3 * torch.rand(value.shape, generator=generator, dtype=value.dtype))

        args, kwargs = unbind_arguments(self.op, map_values(self.arguments, fresh))
        try:
            return _Sample(self.op, args, kwargs)
        except REFUSALS:
            return None

    def size_arguments(self) -> list[str]:
        """The arguments that give the shape of the result."""
        shape = list(self.results[0].shape)
        return [n for n, v in self.arguments.items() if isinstance(v, (list, tuple)) and list(v) == shape]


def is_discoverable(op: Any) -> bool:
    """Whether an operator is a function of its arguments: not random, nothing changed in place, tensors in and out."""
    schema = schema_of(op)
    takes = any("Tensor" in str(argument.type) for argument in schema.arguments)
    gives = bool(schema.returns) and all("Tensor" in str(one.type) for one in schema.returns)
    return takes and gives and not schema.is_mutable and torch.Tag.nondeterministic_seeded not in op.tags


def discover(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Discovery | None:
    """The rule that an operator's behaviour on this sample suggests; None when no dim can be cut.

    ``op``: an operator overload that is a function of its arguments: no randomness, nothing changed in place. Take
    sizes of three or more, all different where the operator allows: equal sizes let dims be confused.
    """
    sample = _Sample(op, args, kwargs or {})
    if not all(isinstance(result, torch.Tensor) for result in sample.results) or not sample.operands:
        return None
    found = cuts(sample)
    return _proposal(sample, found) if found else None


def cuts(sample: _Sample) -> list[Found]:
    """Every valid cut of a sample, in order: most operands first."""
    samples = [one for one in (sample, sample.redrawn()) if one is not None]
    found = []
    for places in _combinations(sample):
        size = sample.operands[places[0][0]].shape[places[0][1]]
        # Ranks without a piece show nothing: many operators refuse empty tensors.
        counts = [count for count in _RANKS if Cut.even(size, count).local_size(count - 1)]
        outcomes = [_outcome(one, places, count) for one in samples for count in counts]
        first = outcomes[0]
        if first is not None and all(outcome == first for outcome in outcomes):
            found.append(first)
    return found


def _combinations(sample: _Sample) -> Iterator[tuple[OperandDim, ...]]:
    """Sets of operand dims of one size, at most one dim an operand, in order: most operands first."""
    options: list[list[tuple[OperandDim, int] | None]] = [
        [None, *(((i, d), size) for d, size in enumerate(t.shape) if size >= max(_RANKS))]
        for i, t in enumerate(sample.operands)
    ]
    chosen = [
        tuple(place for place, _ in picked)
        for combination in itertools.islice(itertools.product(*options), MAX_COMBINATIONS)
        if (picked := [one for one in combination if one is not None]) and len({size for _, size in picked}) == 1
    ]
    yield from sorted(chosen, key=lambda places: (-len(places), places))


def _outcome(sample: _Sample, places: tuple[OperandDim, ...], num_ranks: int) -> Found | None:
    """What cutting these dims makes of the results; None when no recombination gives the whole."""
    plain = _recombined(sample, places, num_ranks)
    if plain is not None:
        return Found(places, plain)
    operand, dim = places[0]
    size = sample.operands[operand].shape[dim]
    for name in sample.size_arguments():
        for index, length in enumerate(sample.arguments[name]):
            if length == size:
                sized = _recombined(sample, places, num_ranks, local={name: index})
                if sized is not None:
                    return Found(places, sized, sized=True)
    for bias in {i for i, t in enumerate(sample.operands) if t.is_floating_point()} - {i for i, _ in places}:
        summed = _recombined(sample, places, num_ranks, added=bias)
        if summed is not None and set(summed) == {"sum"}:
            return Found(places, summed, added=(bias,))
    return None


def _recombined(
    sample: _Sample,
    places: tuple[OperandDim, ...],
    num_ranks: int,
    *,
    local: Mapping[str, int] | None = None,
    added: int | None = None,
) -> tuple[int | str, ...] | None:
    """What each result's pieces make; ``local``: the entry of a size argument to make local; ``added``: see `Found`."""
    layouts: list[Layout] = [REPLICATE] * len(sample.operands)
    for operand, dim in places:
        layouts[operand] = Shard(dim, Cut.even(sample.operands[operand].shape[dim], num_ranks))
    ranks = []
    for rank in range(num_ranks):
        pieces = [take_shard(t, layout, rank).contiguous() for t, layout in zip(sample.operands, layouts, strict=True)]
        if added is not None:
            pieces[added] = split_sum(sample.operands[added], num_ranks)[rank]
        changed = {}
        for name, index in (local or {}).items():
            sizes = list(sample.arguments[name])
            sizes[index] = pieces[places[0][0]].shape[places[0][1]]
            changed[name] = sizes
        try:
            ranks.append(sample.run(pieces, **changed))
        except REFUSALS:
            return None
    if any(len(results) != len(sample.results) for results in ranks):
        return None
    found = []
    for whole, pieces in zip(sample.results, zip(*ranks, strict=True), strict=True):
        outcome = _recombination(whole, pieces)
        if outcome is None:
            return None
        found.append(outcome)
    return tuple(found)


def _recombination(whole: torch.Tensor, pieces: Sequence[torch.Tensor]) -> int | str | None:
    if not all(isinstance(piece, torch.Tensor) and piece.ndim == whole.ndim for piece in pieces):
        return None
    for dim in range(whole.ndim):
        rest = [piece.shape[:dim] + piece.shape[dim + 1 :] for piece in pieces]
        fits = all(shape == whole.shape[:dim] + whole.shape[dim + 1 :] for shape in rest)
        if (
            fits
            and sum(p.shape[dim] for p in pieces) == whole.shape[dim]
            and _equal(torch.cat(list(pieces), dim), whole)
        ):
            return dim
    if any(piece.shape != whole.shape for piece in pieces):
        return None
    if all(_equal(piece, whole) for piece in pieces):
        return "whole"
    for name in _REDUCTIONS:
        if whole.dtype != torch.bool and not whole.is_complex() and _equal(reduce_shares(pieces, name), whole):
            return name
    return None


def _equal(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return torch.equal(got, wanted)
    scale = wanted.abs().nan_to_num(0, 0, 0).max().item() if wanted.numel() else 0.0
    return torch.allclose(got, wanted, rtol=1e-4, atol=1e-5 * (scale or 1.0), equal_nan=True)


def _proposal(sample: _Sample, found: Sequence[Found]) -> Discovery:
    """The notation: each way of cutting is a factor, dims that no way cuts may not be cut."""
    operands = [[f"{_letter(i)}{d}!" for d in range(t.ndim)] for i, t in enumerate(sample.operands)]
    results = [[f"r{i}{d}!" for d in range(t.ndim)] for i, t in enumerate(sample.results)]
    taken: set[tuple[str, int, int]] = set()
    kept: list[Found] = []
    # What stays cut goes before what is reduced.
    for one in sorted(found, key=lambda f: any(isinstance(result, str) for result in f.results)):
        ends = [(i, result) for i, result in enumerate(one.results) if isinstance(result, int)]
        places = {("operand", *place) for place in one.operands} | {("result", *end) for end in ends}
        reductions = {r for f in (*kept, one) for r in f.results if isinstance(r, str)}
        # Notation cannot say that one result carries a factor and another reduces it.
        is_mixed = bool(ends) and len(ends) < len(one.results)
        if places & taken or "whole" in reductions or len(reductions) > 1 or is_mixed:
            continue
        taken |= places
        name = f"f{len(kept)}"
        kept.append(one)
        size = sample.operands[one.operands[0][0]].shape[one.operands[0][1]]
        for operand, dim in one.operands:
            operands[operand][dim] = name
        for result, dim in ends:
            length = sample.results[result].shape[dim]
            results[result][dim] = name if length == size else f"({name} {name}r{result}!)"
    left, right = (", ".join(" ".join(dims) for dims in side) for side in (operands, results))
    schema = schema_of(sample.op)
    overload = f".{schema.overload_name}" if schema.overload_name else ""
    return Discovery(
        name=f"{schema.name}{overload}",
        notation=f"{left} -> {right}",
        linear=_linear_sets(sample),
        added=tuple(sorted({bias for one in kept for bias in one.added})),
        reduce=next((r for one in kept for r in one.results if isinstance(r, str)), "sum"),
        size_arg=next(iter(sample.size_arguments()), None) if any(one.sized for one in kept) else None,
    )


def _letter(operand: int) -> str:
    return "xyzuvw"[operand] if operand < 6 else f"x{operand}_"


def _linear_sets(sample: _Sample) -> tuple[tuple[int, ...], ...]:
    """Operands, one by one and then all together, in which the call is linear."""
    floats = [i for i, t in enumerate(sample.operands) if t.is_floating_point()]
    sets: list[tuple[int, ...]] = [(i,) for i in floats]
    if len(floats) > 1 and not any(_is_linear(sample, group) for group in sets):
        sets = [tuple(floats)]
    return tuple(group for group in sets if _is_linear(sample, group))


def _is_linear(sample: _Sample, group: tuple[int, ...]) -> bool:
    shares = {i: split_sum(sample.operands[i], 2) for i in group}
    try:
        parts = [
            sample.run([shares[i][n] if i in shares else t for i, t in enumerate(sample.operands)]) for n in (0, 1)
        ]
    except REFUSALS:
        return False
    pairs = zip(*parts, sample.results, strict=True)
    return all(whole.is_floating_point() and _equal(a + b, whole) for a, b, whole in pairs)
