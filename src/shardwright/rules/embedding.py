"""Embeddings: feature-cut as they stand, vocabulary-cut by a masked lookup whose results add up."""

from typing import Any

import torch

from shardwright.layout import Size
from shardwright.rules.dims import named_dims, put
from shardwright.rules.lookup import look_up, without_others
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten


def local_embedding(local: Local) -> Any:
    """Look up the rows this rank holds and give zeros for the others; the ranks' results add up to the embedding."""
    cut = local.strategy.cut("v")
    if cut is None:
        return local.run_call()
    weight, indices = local.arguments["weight"], local.arguments["indices"]
    weight, indices, outside = look_up(local, cut, 0, weight, indices)
    return without_others(local, local.run(aten.embedding.default, weight, indices), outside, after=1)


def bag_rule(call: Call) -> Rule:
    """``embedding_bag``: sums, means or maxima of rows over bags; only the features are cut."""
    weight, features = call.operands[0], call.operands[0].shape[1]
    sizes: dict[str, Size] = {"v": weight.shape[0], "d": features}
    operands: list[Dims] = [(Term(("v",)), Term(("d",)))]
    for number, tensor in enumerate(call.operands[1:]):
        own, lengths = named_dims(tensor.shape, f"x{number}d")
        operands.append(own)
        sizes.update(lengths)
    results: list[Dims | None] = []
    for number, result in enumerate(call.results):
        if result is None:
            results.append(None)
            continue
        own, lengths = named_dims(result.shape, f"r{number}d")
        # The bags themselves, and the places of maxima, have the features last.
        has_features = number == 0 or (number == 3 and result.ndim == 2 and result.shape[1] == features)
        results.append(put(own, 1, Term(("d",))) if has_features else own)
        sizes.update((name, size) for name, size in lengths.items() if not (has_features and name == f"r{number}d1"))
    return Rule(tuple(operands), tuple(results), sizes, frozenset(sizes) - {"d"}, independent=frozenset({1, 2, 3}))


RULES: dict[str, Entry] = {
    "aten::_embedding_bag": Entry(bag_rule),
    "aten::_embedding_bag_forward_only": Entry(bag_rule),
    "aten::embedding": einsum("v d, ... -> ... d", linear=((0,),), multiplies=(), localize=local_embedding),
    "aten::embedding_bag": Entry(bag_rule),
    "aten::embedding_bag.padding_idx": Entry(bag_rule),
    "aten::embedding_dense_backward": einsum("... d, ... -> v! d", linear=((0,),)),
}
