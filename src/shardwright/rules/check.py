"""Check a rule against its operator: run every strategy on cut tensors, join the results, compare with the whole.

This is how every rule is tested, and what `shardwright.check_rule` offers for a user's own rules.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shardwright.layout.cut import Cut
from shardwright.layout.layout import Layout, Partial, Shard, local_shape
from shardwright.layout.pieces import join_shards, take_shard
from shardwright.rules.call import bind_call, leaves, make_call, map_values, unbind_arguments
from shardwright.rules.local import localize
from shardwright.rules.rule import (
    SCATTERED,
    Call,
    Rule,
    Strategy,
    factor_cuts,
    partial_strategies,
    strategy_for,
    whole_strategy,
)


@dataclass
class EagerLocal:
    """A `Local` that runs operators at once on real tensors."""

    call: Call
    rule: Rule
    strategy: Strategy
    rank: int
    arguments: dict[str, Any] = field(default_factory=dict)

    def run(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run ``op``."""
        return op(*args, **kwargs)

    def run_call(self, /, **changed: Any) -> Any:
        """Run the call's operator with some arguments changed."""
        args, kwargs = unbind_arguments(self.call.op, {**self.arguments, **changed})
        return self.call.op(*args, **kwargs)

    def is_dense(self, value: torch.Tensor) -> bool:
        """Whether ``value`` is contiguous."""
        return value.is_contiguous()

    def ranges(self, cut: Cut) -> list[tuple[int, int]]:
        """The indices this rank owns."""
        return cut.intervals(self.rank)

    def rank_value(self, per_rank: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        """This rank's number as a 0-d tensor."""
        return torch.tensor(per_rank[self.rank], dtype=dtype)


def default_strategies(rule: Rule, num_ranks: int, seeds: Mapping[int, Sequence[Cut]] | None = None) -> list[Strategy]:
    """Every strategy of a rule: whole, partial sums, each factor group cut in equal chunks, or all but a part of it.

    ``seeds``: further cuts of operand dims, as ``{operand: cuts of its dims}``, turned into factor cuts.
    """
    found: dict[Strategy, None] = {whole_strategy(rule): None}
    found.update(dict.fromkeys(partial_strategies(rule)))
    for group in rule.groups():
        if all(isinstance(rule.sizes[name], int) for name in group):
            sizes = {name: rule.sizes[name] for name in group}
            for choice in (_even(sizes, num_ranks), *_shared(sizes, num_ranks)):
                cut = strategy_for(rule, choice)
                if cut is not None:
                    found[cut] = None
    for operand, cuts in (seeds or {}).items():
        for term in rule.operands[operand]:
            for cut in cuts:
                for choice in factor_cuts(term, cut, rule.sizes):
                    seeded = strategy_for(rule, choice)
                    if seeded is not None and not any(name in rule.fixed for name in choice):
                        found[seeded] = None
    return list(found)


def _even(sizes: Mapping[str, int], num_ranks: int) -> dict[str, Cut]:
    return {name: Cut.even(size, num_ranks) for name, size in sizes.items()}


def _shared(sizes: Mapping[str, int], num_ranks: int) -> Iterator[dict[str, Cut]]:
    """Cuts that leave every rank a part: each factor of a group in turn, or the first index of a factor by itself."""
    even = _even(sizes, num_ranks)
    if len(sizes) > 1:
        yield from ({**even, name: Cut.whole(size, num_ranks)} for name, size in sizes.items())
        return
    for name, size in sizes.items():
        if size > 1:
            yield {name: Cut.join([Cut.whole(1, num_ranks), Cut.even(size - 1, num_ranks)])}


def run_strategy(
    rule: Rule, call: Call, strategy: Strategy, arguments: Mapping[str, Any], num_ranks: int
) -> Iterator[list[Any]]:
    """Each rank's result tensors when the operands are laid out as the strategy says."""
    for rank in range(num_ranks):
        layouts = iter(strategy.operands)

        def piece(value: Any, layouts: Iterator[Layout] = layouts, rank: int = rank) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            layout = next(layouts)
            if layout == Partial("sum") and rank:
                # Shares that are not zero elsewhere, so that a wrong linearity claim shows.
                return split_sum(value, num_ranks)[rank]
            return split_sum(value, num_ranks)[0] if layout == Partial("sum") else take_shard(value, layout, rank)

        local = EagerLocal(call, rule, strategy, rank, {n: map_values(v, piece) for n, v in arguments.items()})
        result = localize(local)
        yield list(result) if isinstance(result, (list, tuple)) else [result]


def split_sum(value: torch.Tensor, num_ranks: int) -> list[torch.Tensor]:
    """Tensors that add up to ``value``, none of them zero or constant: a maximum must not pass for linear."""
    if value.dtype == torch.bool:
        return [value] + [torch.zeros_like(value)] * (num_ranks - 1)
    generator = torch.Generator().manual_seed(11)
    draws = [torch.randint(1, 9, value.shape, generator=generator) for _ in range(num_ranks - 1)]
    # As large as the value, so that no more digits cancel than need be.
    is_whole = not (value.is_floating_point() or value.is_complex())
    scale = 1 if is_whole else _scale(value) / 8
    shares = [(draw * scale).to(value.dtype).to(value.device) for draw in draws]
    return [value - sum(shares), *shares] if shares else [value]


def check_strategies(
    rule: Rule, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, num_ranks: int, tolerance: float = 1e-5
) -> list[str]:
    """What is wrong with a rule on sample arguments: one sentence a failing strategy, none when it is right.

    Every rank's result must have the shape its layout says, and the joined results must equal ``op`` on whole tensors.
    """
    expected = op(*args, **kwargs)
    call = make_call(op, args, kwargs, expected)
    wholes = list(expected) if isinstance(expected, (list, tuple)) else [expected]
    _, arguments = bind_call(op, args, kwargs)
    tensors = [value for value in leaves(list(arguments.values())) if isinstance(value, torch.Tensor)]
    problems = []
    for strategy in default_strategies(rule, num_ranks):
        try:
            ranks = list(run_strategy(rule, call, strategy, arguments, num_ranks))
        except Exception as error:  # noqa: BLE001 - whatever the operator raises is the finding
            problems.append(f"{_format(strategy)}: {type(error).__name__}: {error}")
            continue
        for index, (whole, layout) in enumerate(zip(wholes, strategy.results, strict=True)):
            if isinstance(whole, torch.Tensor) and layout != SCATTERED:
                # Summands may cancel: their rounding is measured against themselves.
                summed = [_scale(t) for t, one in zip(tensors, strategy.operands, strict=True) if one == Partial("sum")]
                # A few digits of the type itself, where it has fewer than the tolerance asks for.
                relative = max(tolerance, 4 * torch.finfo(whole.dtype).eps if whole.is_floating_point() else 0.0)
                allowed = relative * max([_scale(whole), *summed])
                problem = _compare(whole, [rank[index] for rank in ranks], layout, relative, allowed)
                if problem:
                    problems.append(f"{_format(strategy)}: result {index} {problem}")
    return problems


def _scale(value: torch.Tensor) -> float:
    """The largest finite absolute value; 1 when there is none, or nothing but zeros."""
    if value.dtype == torch.bool or not value.numel():
        return 1.0
    return float(_wide(value).abs().nan_to_num(0, 0, 0).max().item()) or 1.0


def _wide(value: torch.Tensor) -> torch.Tensor:
    """A tensor of a dtype that can be reckoned with: few operators take floats of a byte."""
    return value.float() if value.is_floating_point() and value.itemsize == 1 else value


def _compare(
    whole: torch.Tensor, pieces: list[torch.Tensor], layout: Layout, relative: float, absolute: float
) -> str | None:
    for rank, piece in enumerate(pieces):
        expected = local_shape(whole.shape, layout, rank)
        if tuple(piece.shape) != tuple(expected):
            return f"has shape {tuple(piece.shape)} on rank {rank}, but {layout} means {tuple(expected)}"
        if piece.dtype != whole.dtype:
            return f"has dtype {piece.dtype} on rank {rank}, not {whole.dtype}"
    if isinstance(layout, Shard):
        # Piece by piece: what several ranks hold has to be right on each.
        joined = torch.cat([piece.reshape(-1) for piece in pieces])
        whole = torch.cat([take_shard(whole, layout, rank).reshape(-1) for rank in range(len(pieces))])
    else:
        joined = join_shards(pieces, layout)
    if joined.numel() == 0:
        return None
    if not (whole.is_floating_point() or whole.is_complex()):
        return None if torch.equal(joined, whole) else "differs"
    joined, whole = _wide(joined), _wide(whole)
    if torch.allclose(joined, whole, rtol=relative, atol=absolute, equal_nan=True):
        return None
    return f"differs by {(joined - whole).abs().max().item():.3g} (largest value {_scale(whole):.3g})"


def _format(strategy: Strategy) -> str:
    cut = ", ".join(f"{name} cut" for name, _ in strategy.cuts) or "no cut"
    return f"{cut} ({', '.join(map(str, strategy.operands))} -> {', '.join(map(str, strategy.results))})"


__all__ = ["check_strategies", "default_strategies", "leaves"]
