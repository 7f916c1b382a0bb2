"""Embeddings and bags of them: feature-cut as they stand, row-cut by a masked lookup whose results combine."""

from typing import Any

import torch

from shardwright.layout.layout import Shard
from shardwright.layout.sizes import Size
from shardwright.program.torch_private import schema_of
from shardwright.rules.operators.dims import named_dims, put
from shardwright.rules.operators.lookup import look_up, without_others
from shardwright.rules.registry import Entry, einsum
from shardwright.rules.rule import Call, Dims, Local, Rule, Term

aten = torch.ops.aten

_EMBEDDING_BAG = aten._embedding_bag_forward_only.default

_MAX = 2
"""The mode of a bag that takes maxima."""


def local_embedding(local: Local) -> Any:
    """Look up the rows this rank holds and give zeros for the others; the ranks' results add up to the embedding."""
    cut = local.strategy.factor_cut("v")
    if cut is None:
        return local.run_call()
    weight, indices = local.arguments["weight"], local.arguments["indices"]
    weight, indices, outside = look_up(local, cut, 0, weight, indices)
    return without_others(local, local.run(aten.embedding.default, weight, indices), outside, after=1)


def bag_rule(call: Call) -> Rule:
    """``embedding_bag``: sums, means or maxima of rows over bags; the rows are cut, or the features."""
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
    free = {"v", "d"} if call.operands[1].ndim == 1 and isinstance(weight.shape[0], int) else {"d"}
    return Rule(
        tuple(operands),
        tuple(results),
        sizes,
        frozenset(sizes) - free,
        reduces={"v": "max" if call["mode"] == _MAX else "sum"},
        independent=frozenset({1, 2, 3} - ({3} if call["mode"] == _MAX else set())),
        # Only the rank that holds a maximum knows its place.
        scattered=frozenset({3} if call["mode"] == _MAX else ()),
        multiplies=(),
        localize=local_bag,
    )


def local_bag(local: Local) -> Any:
    """The bags of the rows this rank holds, those of other ranks being neutral: their sums, means and maxima combine.

    The rows are looked up one an entry of the bags, and become the weight of the call itself. Weights of zero would
    save that copy, but a row that is not finite would spoil bags that it is not in.
    """
    cut = local.strategy.factor_cut("v")
    if cut is None:
        return _bag_of_features(local)
    indices, padding = local.arguments["indices"], _padding(local.call)
    # Before the entries one row that stands for padding, so that it is left out of means and maxima as it was.
    spaced = local.run(aten.cat.default, [local.run(aten.new_zeros.default, indices, [1]), indices])
    weight, places, outside = look_up(local, cut, 0, local.arguments["weight"], spaced)
    if outside is None:
        outside = local.run(aten.ones_like.default, places, dtype=torch.bool)
    rows = local.run(aten.embedding.default, weight, places)
    fill = float("-inf") if local.call["mode"] == _MAX else 0
    rows = local.run(aten.masked_fill.Scalar, rows, local.run(aten.unsqueeze.default, outside, -1), fill)
    numbers = local.run(aten.cumsum.default, local.run(aten.ones_like.default, indices), 0)
    if padding is None:
        return local.run_call(weight=rows, indices=numbers)
    is_padding = local.run(aten.eq.Scalar, indices, padding)
    numbers = local.run(aten.masked_fill.Scalar, numbers, is_padding, 0)
    changed = {"weight": rows, "indices": numbers, "padding_idx": 0}
    if local.call.schema_name == "aten::embedding_bag":
        # It reads the number of its rows, which is that of the entries here and may be unknown.
        names = [argument.name for argument in schema_of(_EMBEDDING_BAG).arguments]
        return local.run(_EMBEDDING_BAG, *({**local.arguments, **changed}[name] for name in names))
    return local.run_call(**changed)


def _bag_of_features(local: Local) -> Any:
    """The call on this rank's features; where it has none, on one of zeros that is cut off again."""
    cut = local.strategy.factor_cut("d")
    if cut is None or cut.local_size(local.rank) != 0:
        return local.run_call()
    found = local.run_call(weight=local.run(aten.constant_pad_nd.default, local.arguments["weight"], [0, 1]))
    return [
        local.run(aten.slice.Tensor, one, layout.dim, 0, 0) if isinstance(layout, Shard) else one
        for one, layout in zip(found, local.strategy.results, strict=True)
    ]


def _padding(call: Call) -> int | None:
    """The row that bags leave out; None where there is no such row."""
    given = call.arguments.get("padding_idx")
    if given is None or call.schema_name == "aten::embedding_bag":
        return None if given is None else int(given) % int(call.operands[0].shape[0])
    return None if given < 0 else int(given)


RULES: dict[str, Entry] = {
    "aten::_embedding_bag": Entry(bag_rule),
    "aten::_embedding_bag_forward_only": Entry(bag_rule),
    "aten::embedding": einsum("v d, ... -> ... d", linear=((0,),), multiplies=(), localize=local_embedding),
    "aten::embedding_bag": Entry(bag_rule),
    "aten::embedding_bag.padding_idx": Entry(bag_rule),
}
