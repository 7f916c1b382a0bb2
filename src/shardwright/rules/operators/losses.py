"""Losses: elementwise ones are cut everywhere, those over classes or margins along the batch.

A mean over a cut dim is this rank's sum divided by the global count.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from shardwright.layout.sizes import product
from shardwright.rules.local import dense
from shardwright.rules.operators.lookup import look_up
from shardwright.rules.registry import Builder, Entry, notation_rule
from shardwright.rules.rule import Call, Local, Rule

aten = torch.ops.aten

NONE, MEAN, SUM = 0, 1, 2
"""``reduction`` as operators write it."""


def elementwise_loss(call: Call) -> Rule | None:
    """A loss of every element, then nothing, a mean or a sum over all of them; operands broadcast."""
    return _reduced_loss(call, ", ".join(["..."] * len(call.operands)), "...")


def row_loss(*operands: str, result: str = "n") -> Builder:
    """A loss of every row, in notation, then nothing, a mean or a sum over the rows."""

    def build(call: Call) -> Rule | None:
        if call.operands[0].ndim != 2:
            return None
        return _reduced_loss(call, ", ".join(operands[: len(call.operands)]), result)

    return build


def _reduced_loss(call: Call, operands: str, result: str) -> Rule | None:
    reduction = call["reduction"]
    shapes = [t.shape for t in call.operands]
    if reduction == NONE:
        return notation_rule(f"{operands} -> {result}", shapes, [call.result.shape])
    localize = _local_mean(result) if reduction == MEAN else None
    if localize is not None and not all(isinstance(size, int) for shape in shapes for size in shape):
        return None
    return notation_rule(f"{operands} -> ", shapes, [call.result.shape], localize=localize)


def _local_mean(result: str) -> Callable[[Local], Any]:
    def localize(local: Local) -> Any:
        """The sum over this rank's share, over the number of all summands."""
        shapes = [t.shape for t in local.call.operands]
        count = product(_broadcast(shapes) if result == "..." else shapes[0][:1])
        return local.run(aten.div.Scalar, local.run_call(reduction=SUM), count)

    return localize


def _broadcast(shapes: Sequence[Sequence[Any]]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*(tuple(int(size) for size in shape) for shape in shapes)))


def nll_rule(call: Call) -> Rule | None:
    """``nll_loss``, ``cross_entropy`` …: ``n c s…, n s… -> n s…``; of what is already a logarithm, classes are cut too:
    a row's loss is where its class is.

    A mean divides by a count that depends on the targets, so it is cut only where none is ignored or weighted, which
    is not known before the program runs: without a rule.
    """
    source, target = call.operands[0], call.operands[1]
    if call["reduction"] == MEAN:
        return None
    space = " ".join(f"s{i}" for i in range(max(source.ndim - 2, 0)))
    batch = "n " if source.ndim > 1 else ""
    is_probability = target.shape == source.shape and target.dtype.is_floating_point
    rows = f"{batch}{space}"
    is_cut = "nll" in call.schema_name and isinstance(source.shape[min(source.ndim - 1, 1)], int)
    c = "c" if is_cut else "c!"
    wanted = f"{batch}c! {space}" if is_probability else rows
    weight = f", {c}" if len(call.operands) > 2 else ""
    result = rows if call["reduction"] == NONE else ""
    # The second result of the native forms, the total weight, adds up like the sum itself; without one it is zero.
    if len(call.results) > 1 and call["reduction"] == NONE:
        return None
    outs = [result] * len(call.results)
    text = f"{batch}{c} {space}, {wanted}{weight} -> {', '.join(outs)}"
    shapes = [t.shape for t in call.operands], [r.shape for r in call.results if r is not None]
    return notation_rule(text, *shapes, localize=local_nll if is_cut else None)


_OUTSIDE = -100
"""The class of rows that another rank has, which count for nothing here."""


def local_nll(local: Local) -> Any:
    """The loss, or its gradient, of the rows whose class this rank holds; the others count for nothing."""
    source, cut = dense(local, local.arguments["self"]), local.strategy.factor_cut("c")
    if cut is None:
        return local.run_call(self=source)
    target = local.arguments["target"]
    ignored = local.run(aten.eq.Scalar, target, local.arguments["ignore_index"])
    # An index that is ignored need not be one of a class.
    safe = local.run(aten.where.ScalarSelf, ignored, 0, target)
    safe = local.run(aten.to.dtype, safe, torch.int64)
    _, place, outside = look_up(local, cut, 0, source, safe)
    assert outside is not None, "a rank without classes has no share of the call"
    nowhere = local.run(aten.logical_or.default, ignored, outside)
    place = local.run(aten.where.ScalarSelf, nowhere, _OUTSIDE, place)
    return local.run_call(self=source, target=place, ignore_index=_OUTSIDE)


_ELEMENTWISE, _NLL = Entry(elementwise_loss), Entry(nll_rule)
_ROWS = Entry(row_loss("n c!", "n c!"))

RULES: dict[str, Entry] = {
    "aten::binary_cross_entropy": _ELEMENTWISE,
    "aten::binary_cross_entropy_with_logits": _ELEMENTWISE,
    "aten::cosine_embedding_loss": Entry(row_loss("n c!", "n c!", "n")),
    "aten::cross_entropy_loss": _NLL,
    "aten::hinge_embedding_loss": _ELEMENTWISE,
    "aten::huber_loss": _ELEMENTWISE,
    "aten::kl_div": _ELEMENTWISE,
    "aten::l1_loss": _ELEMENTWISE,
    "aten::margin_ranking_loss": _ELEMENTWISE,
    "aten::mse_loss": _ELEMENTWISE,
    "aten::multi_margin_loss": Entry(row_loss("n c!", "n", "c!")),
    "aten::multilabel_margin_loss": _ROWS,
    "aten::nll_loss": _NLL,
    "aten::nll_loss2d": _NLL,
    "aten::nll_loss2d_forward": _NLL,
    "aten::nll_loss_forward": _NLL,
    "aten::nll_loss_nd": _NLL,
    "aten::poisson_nll_loss": _ELEMENTWISE,
    "aten::smooth_l1_loss": _ELEMENTWISE,
    "aten::soft_margin_loss": _ELEMENTWISE,
    "aten::triplet_margin_loss": Entry(row_loss("n c!", "n c!", "n c!")),
}
