"""The strategies of every site: of calls by their rules, of weights by who reads them, of outputs as asked."""

import torch
from torch import nn

from shardwright.assign.agreed import Agreed
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Partial, Shard
from shardwright.plan.pins import Pins
from tests.support.tasks import choices_of, site_of, task_of

X = torch.randn(4, 6)
ROWS, COLUMNS = Shard(0, Cut.even(8, 2)), Shard(1, Cut.even(6, 2))


def layouts(task, name):
    """What a placeholder may be, or an output may be asked for."""
    _, _, choices = choices_of(task)
    strategies = choices.strategies[site_of(task, name).index]
    return {(*strategy.operands, *strategy.results) for strategy in strategies}


def test_a_linear_is_cut_by_rows_or_columns_of_its_weight_or_stays_whole():
    task = task_of(nn.Linear(6, 8), (X,))
    found = layouts(task, "linear")
    assert (REPLICATE, ROWS, ROWS, Shard(1, ROWS.cut)) in found
    assert (COLUMNS, COLUMNS, Partial(), Partial()) in found
    assert (REPLICATE,) * 4 in found


def test_a_free_weight_may_be_what_its_readers_take():
    task = task_of(nn.Linear(6, 8), (X,))
    assert layouts(task, "p_weight") >= {(REPLICATE,), (ROWS,), (COLUMNS,)}
    # The bias of a sum over ranks is one of its parts.
    assert layouts(task, "p_bias") >= {(REPLICATE,), (Shard(0, ROWS.cut),), (Partial(),)}


def test_a_plan_that_gives_the_dim_leaves_the_cut_to_what_reads_it():
    pins = Pins(state={"p_weight": ROWS}, free_cut=frozenset({"p_weight"}))
    assert layouts(task_of(nn.Linear(6, 8), (X,), auto=False, pins=pins), "p_weight") == {(ROWS,)}
    pins.may_stay_whole = frozenset({"p_weight"})
    assert layouts(task_of(nn.Linear(6, 8), (X,), auto=False, pins=pins), "p_weight") == {(ROWS,), (REPLICATE,)}


def test_nodes_that_may_not_be_cut_are_whole_or_partial():
    found = layouts(task_of(nn.Linear(6, 8), (X,), agreed=Agreed(uncut=frozenset({"linear"}))), "linear")
    assert found
    assert not any(isinstance(layout, Shard) for strategy in found for layout in strategy)


def test_on_one_rank_all_is_whole():
    task = task_of(nn.Linear(6, 8), (X,), num_ranks=1)
    _, _, choices = choices_of(task)
    assert {layout for found in choices.strategies for s in found for layout in (*s.operands, *s.results)} == {
        REPLICATE
    }


def test_outputs_are_as_they_are_asked_for():
    assert layouts(task_of(nn.Linear(6, 8), (X,)), "output") == {(REPLICATE,)}
    pins = Pins(outputs={0: Shard(1)})
    assert layouts(task_of(nn.Linear(6, 8), (X,), pins=pins), "output") == {(Shard(1, Cut.even(8, 2)),)}
