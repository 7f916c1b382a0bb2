"""Distances between rows whose features are cut: the power of a distance is a sum, of which it is the root.

Each rank takes its features' distances with torch's own kernel, which holds no difference of every pair, and raises
them to the power again. Sums of absolute values and maxima need no operator of their own (see `cdist_rule`).
"""

from typing import Any

import torch
from torch import Tensor, library

from shardwright.rules.local import Eager, dense, run_dense
from shardwright.rules.operators.scans import Runs
from shardwright.rules.registry import Entry, notation_rule
from shardwright.rules.rule import Call, Local, Rule

aten = torch.ops.aten

REDUCED_BY = {0.0: "sum", 1.0: "sum", float("inf"): "max"}
"""How the distances of several features make one, for the norms that are sums or extremes themselves."""

_PAIRS, _OWN = "... p {k}, ... r {k} -> ... p r", "n! {k} -> m!"


def _distances(text: str, call: Call) -> Rule:
    reduce = REDUCED_BY.get(float(call.arguments.get("p", 2.0)))
    shapes = [tensor.shape for tensor in call.operands], [call.result.shape]
    return notation_rule(text.format(k="k" if reduce else "k!"), *shapes, reduce=reduce or "sum", localize=run_dense)


def cdist_rule(call: Call) -> Rule:
    """``cdist``: rows of both may be cut, and features where distances add up or the largest counts."""
    return _distances(_PAIRS, call)


def pdist_rule(call: Call) -> Rule:
    """``pdist``: every row meets every other; features as in `cdist_rule`."""
    return _distances(_OWN, call)


def powers_rule(text: str, localize: Any) -> Entry:
    """Powers of distances: sums over the features."""

    def build(call: Call) -> Rule:
        shapes = [tensor.shape for tensor in call.operands], [call.result.shape]
        return notation_rule(text.format(k="k"), *shapes, localize=localize, is_written_out=True)

    return Entry(build)


def _cdist_powers(run: Runs, x1: Any, x2: Any, p: float, compute_mode: int | None) -> Any:
    return run.run(aten.pow.Tensor_Scalar, run.run(aten._cdist_forward.default, x1, x2, p, compute_mode), p)


def _pdist_powers(run: Runs, x: Any, p: float) -> Any:
    return run.run(aten.pow.Tensor_Scalar, run.run(aten._pdist_forward.default, x, p), p)


def local_cdist(local: Local) -> Any:
    """Of this rank's rows or features."""
    x1, x2, p, compute_mode = (local.arguments[name] for name in ("x1", "x2", "p", "compute_mode"))
    return _cdist_powers(local, dense(local, x1), dense(local, x2), p, compute_mode)


def local_pdist(local: Local) -> Any:
    """Of this rank's features."""
    return _pdist_powers(local, dense(local, local.arguments["self"]), local.arguments["p"])


library.define("shardwright::cdist_powers", "(Tensor x1, Tensor x2, float p, int? compute_mode) -> Tensor")
library.define("shardwright::pdist_powers", "(Tensor self, float p) -> Tensor")


@library.impl("shardwright::cdist_powers", "CompositeExplicitAutograd")
def _cdist_eager(x1: Tensor, x2: Tensor, p: float, compute_mode: int | None) -> Tensor:
    return _cdist_powers(Eager(), x1, x2, p, compute_mode)


@library.impl("shardwright::pdist_powers", "CompositeExplicitAutograd")
def _pdist_eager(x: Tensor, p: float) -> Tensor:
    return _pdist_powers(Eager(), x, p)


@library.register_fake("shardwright::cdist_powers")
def _cdist_like(x1: Tensor, x2: Tensor, p: float, compute_mode: int | None) -> Tensor:
    return aten._cdist_forward.default(x1, x2, p, compute_mode)


@library.register_fake("shardwright::pdist_powers")
def _pdist_like(x: Tensor, p: float) -> Tensor:
    return aten._pdist_forward.default(x, p)


_CDIST, _PDIST = Entry(cdist_rule), Entry(pdist_rule)

RULES: dict[str, Entry] = {
    "aten::_cdist_forward": _CDIST,
    "aten::_euclidean_dist": _CDIST,
    "aten::_pdist_forward": _PDIST,
    "aten::cdist": _CDIST,
    "aten::pdist": _PDIST,
    "shardwright::cdist_powers": powers_rule(_PAIRS, local_cdist),
    "shardwright::pdist_powers": powers_rule(_OWN, local_pdist),
}
