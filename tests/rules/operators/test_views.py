"""View factorisation, on any shapes that hold the same elements."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from shardwright.layout.cut import Cut
from shardwright.layout.pieces import join_shards, take_shard
from shardwright.rules.operators.views import refine
from shardwright.rules.rule import Rule, strategy_for


@st.composite
def shape_pairs(draw):
    """Two groupings of one list of factors, sometimes with a shape that shares none."""
    factors = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))

    def grouped():
        ends = sorted(draw(st.sets(st.integers(1, len(factors)), max_size=3)) | {len(factors)})
        return tuple(math.prod(factors[start:end]) for start, end in zip([0, *ends], ends, strict=False))

    return grouped(), grouped()


@given(shape_pairs(), st.integers(2, 4))
def test_cutting_before_a_view_is_cutting_after(pair, num_ranks):
    source, target = pair
    left, right, sizes, fixed = refine(source, target)
    for shape, dims in ((source, left), (target, right)):
        assert shape == tuple(math.prod(sizes[name] for name in term.factors) for term in dims)
    rule = Rule((left,), (right,), sizes, frozenset(fixed))
    whole = torch.arange(math.prod(source)).reshape(source)
    for (name,) in rule.groups():
        strategy = strategy_for(rule, {name: Cut.even(sizes[name], num_ranks)})
        before, after = strategy.operands[0], strategy.results[0]
        pieces = [take_shard(whole, before, rank) for rank in range(num_ranks)]
        viewed = [
            piece.reshape(take_shard(whole.reshape(target), after, rank).shape) for rank, piece in enumerate(pieces)
        ]
        assert torch.equal(join_shards(viewed, after), whole.reshape(target))
