"""Dropout on ranks draws the mask that one process draws, also where its operand is cut or a rank has nothing."""

import pytest
import torch

from shardwright.layout.layout import Shard
from shardwright.layout.pieces import join_shards
from shardwright.rules.call import bind_call, make_call
from shardwright.rules.check import default_strategies, run_strategy
from tests.support.harness import aten, rule_for, t

dropout = aten.native_dropout.default


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5), (1, 2)])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_every_rank_has_its_part_of_one_mask(shape, p):
    args = (t(*shape), p, True)
    torch.manual_seed(4)
    wanted = dropout(*args)
    after = torch.rand(1)
    call, (_, arguments) = make_call(dropout, args, {}, wanted), bind_call(dropout, args, {})
    rule = rule_for(dropout, args)
    cut = [one for one in default_strategies(rule, 4) if isinstance(one.results[0], Shard)]
    assert cut
    for strategy in cut:
        pieces, stands = [], []
        ranks = run_strategy(rule, call, strategy, arguments, 4)
        for _ in range(4):
            torch.manual_seed(4)
            pieces.append(next(ranks))
            stands.append(torch.rand(1))
        # All generators stand where that of one process stands, whatever a rank had.
        assert all(torch.equal(one, after) for one in stands)
        for number, whole in enumerate(wanted):
            torch.testing.assert_close(
                join_shards([piece[number] for piece in pieces], strategy.results[number]), whole
            )
