"""One rank's side of a call: the operator on local tensors, size arguments worked out from the cut factors."""

import operator
from typing import Any

from shardwright.layout import Cut, Layout, Shard, cut_of
from shardwright.rules.rule import Local


def localize(local: Local) -> Any:
    """Run or emit one rank's side of a call under its strategy."""
    rule = local.rule
    if rule.localize is not None and local.strategy.cuts:
        return rule.localize(local)
    if rule.size_arg is None:
        return local.run_call()
    sizes = local_sizes(local, local.arguments[rule.size_arg], local.strategy.results[0])
    return local.run_call(**{rule.size_arg: sizes})


def local_sizes(local: Local, sizes: Any, layout: Layout) -> Any:
    """A shape argument with the entry of the cut dim made local; ``-1`` stays, as it follows from the rest."""
    if not isinstance(layout, Shard):
        return sizes
    entries = list(sizes)
    if not (isinstance(entries[layout.dim], int) and entries[layout.dim] == -1):
        entries[layout.dim] = local_size(local, entries[layout.dim], cut_of(layout))
    return entries


def local_size(local: Local, size: Any, cut: Cut) -> Any:
    """This rank's share of a size, given as an int or as the value of a symbolic int."""
    if isinstance(size, int):
        return cut.local_size(local.rank)
    owned = sum(length for owner, length in cut.runs if owner == local.rank)
    return local.run(operator.floordiv, local.run(operator.mul, size, owned), cut.period)
