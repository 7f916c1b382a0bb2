"""Grouped matmuls: rows sorted by expert, each group multiplied by its expert's matrix.

Features are cut as in any matmul. Experts are cut too (expert parallelism, as in GShard, Lepikhin et al., 2020): a
rank multiplies the rows of its own experts and gives zeros for all others, so the ranks' results add up.
"""

from dataclasses import replace
from typing import Any

import torch

from shardwright.rules.registry import Entry, notation_rule
from shardwright.rules.rule import Call, Dims, Local, RowGroups, Rule, Term

aten = torch.ops.aten

EXPERTS = "e"
"""The factor of the experts in the rules of this family."""
STRIDE_BYTES = 16
"""What PyTorch's own grouped matmul wants rows to start at multiples of."""


def grouped_rule(call: Call) -> Rule | None:
    """``s! k, e k n, x!, x! n -> s! n``: rows end group by group at the offsets ``x``. A bias keeps experts whole."""
    if len(call.operands) < 3:
        return None
    has_bias = len(call.operands) > 3
    experts = "e!" if has_bias else "e"
    text = f"s! k, {experts} k n, x!{', x! n' if has_bias else ''} -> s! n"
    linear = (frozenset({0, 3}), frozenset({1, 3})) if has_bias else (frozenset({0}), frozenset({1}))
    return notation_rule(
        text,
        [operand.shape for operand in call.operands],
        [call.result.shape],
        linear=linear,
        added=frozenset({3}) if has_bias else frozenset(),
        # Each row meets the matrix of one expert.
        multiplies=(("s", "k", "n"),),
        localize=local_groups,
        row_groups=RowGroups(EXPERTS, rows=0, offsets=2),
    )


_BACKWARD = "s! k, e k n, x!, s! n -> s! k, e k n"


def grouped_backward_rule(call: Call) -> Rule:
    """The gradients of rows and of experts: features are cut as in a matmul, experts as in `grouped_rule`."""
    shapes = [operand.shape for operand in call.operands], [one.shape for one in call.results if one is not None]
    found = notation_rule(_BACKWARD, *shapes, linear=(frozenset({3}),), localize=local_groups)
    # The gradients of rows add up over what the gradients of experts are cut by.
    return replace(found, reduces={"n": "sum", "e": "sum"}, multiplies=(("s", "k", "n"), ("s", "k", "n")))


def aligned_rule(call: Call) -> Rule | None:
    """`grouped_rule`, features cut at multiples of 16 bytes only: ``k`` becomes ``(k k_unit!)``, ``n`` likewise."""
    rule = grouped_rule(call)
    if rule is None:
        return None
    for name in ("k", "n"):
        rule = _in_units(rule, name, STRIDE_BYTES // call.operands[0].dtype.itemsize)
    return rule


def _in_units(rule: Rule, name: str, unit: int) -> Rule:
    """The rule with a factor cut at multiples of ``unit`` only; unchanged where the size is not such a multiple."""
    size = rule.sizes[name]
    if not isinstance(size, int) or size % unit:
        return rule
    inner = f"{name}_unit"

    def side(dims: Dims) -> Dims:
        return tuple(Term((name, inner)) if term.factors == (name,) else term for term in dims)

    multiplies = tuple((*names, inner) if name in names else names for names in rule.multiplied)
    reduces = {inner: rule.reduces[name]} if name in rule.reduces else {}
    return replace(
        rule,
        operands=tuple(map(side, rule.operands)),
        results=tuple(dims and side(dims) for dims in rule.results),
        sizes={**rule.sizes, name: size // unit, inner: unit},
        fixed=rule.fixed | {inner},
        reduces={**rule.reduces, **reduces},
        multiplies=multiplies,
    )


def local_groups(local: Local) -> Any:
    """This rank's groups: rows are rotated so that they come first, and those of other ranks' experts become zeros.

    Raises ValueError when a rank owns experts that do not follow each other.
    """
    cut = local.strategy.factor_cut(EXPERTS)
    if cut is None:
        return local.run_call()
    ranges = [cut.intervals(rank) or [(0, 0)] for rank in range(cut.num_ranks)]
    if any(len(found) > 1 for found in ranges):
        raise ValueError("a rank would own experts that do not follow each other")
    names = [name for name, value in local.call.arguments.items() if value in local.call.operands]
    rows, offsets = local.arguments[names[0]], local.arguments[names[2]]
    first = local.rank_value([found[0][0] for found in ranges], torch.int64)
    count = cut.local_size(local.rank)
    # Group i ends at offsets[i], so it starts where the group before it ends.
    own = local.run(aten.add.Tensor, _positions(local, local.run(aten.slice.Tensor, offsets, 0, 0, count)), first)
    ends = local.run(aten.index_select.default, offsets, 0, own)
    starts = local.run(aten.constant_pad_nd.default, offsets, [1, 0])
    start = local.run(aten.index_select.default, starts, 0, local.run(aten.unsqueeze.default, first, 0))
    column = local.run(aten.select.int, rows, 1, 0)
    position = _positions(local, column)
    total = local.run(aten.sum.default, local.run(aten.ones_like.default, column, dtype=torch.int64))
    there = local.run(aten.remainder.Tensor, local.run(aten.add.Tensor, position, start), total)
    back = local.run(aten.remainder.Tensor, local.run(aten.sub.Tensor, position, start), total)
    own_ends = local.run(aten.sub.Tensor, ends, start)
    # The gradients of a result are rows as well.
    turned = [name for name in (names[0], *names[3:]) if name in local.arguments]
    given = {name: local.run(aten.index_select.default, local.arguments[name], 0, there) for name in turned}
    found = local.run_call(**given, **{names[2]: own_ends})
    result, *others = found if isinstance(found, (tuple, list)) else (found,)
    inside = local.run(aten.lt.Tensor, position, local.run(aten.select.int, own_ends, 0, -1))
    zero = local.run(aten.zeros_like.default, result)
    kept = local.run(aten.where.self, local.run(aten.unsqueeze.default, inside, 1), result, zero)
    back_in_place = local.run(aten.index_select.default, kept, 0, back)
    return (back_in_place, *others) if others else back_in_place


def _positions(local: Local, like: Any) -> Any:
    """0, 1, 2 … for every element of a vector."""
    ones = local.run(aten.ones_like.default, like, dtype=torch.int64)
    return local.run(aten.sub.Scalar, local.run(aten.cumsum.default, ones, 0), 1)


RULES: dict[str, Entry] = {
    "aten::_grouped_mm": Entry(aligned_rule, "s! (k k_unit!), e (k k_unit!) (n n_unit!), x! -> s! (n n_unit!)"),
    "transformers::grouped_mm_fallback": Entry(grouped_rule, "s! k, e k n, x! -> s! n"),
    "transformers::grouped_mm_fallback_backward": Entry(grouped_backward_rule, _BACKWARD),
}
