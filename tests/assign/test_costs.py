"""The solver's problem in numbers worked out by hand: bytes of weights, work of calls, values that flow."""

import pytest
import torch
from torch import nn

from shardwright.assign.costs import make_problem, whole_work_us
from shardwright.assign.effort import Budget
from shardwright.layout.layout import REPLICATE, Shard
from shardwright.plan.pins import Pins
from tests.support.models import MLPs
from tests.support.tasks import choices_of, site_of, task_of

X = torch.randn(4, 6)


def problem_of(task):
    return make_problem(task, *choices_of(task), slack=0.1, budget=Budget())


def by_layout(task, name):
    """Placeholder layout → its bytes on the rank that holds most."""
    site = problem_of(task).sites[site_of(task, name).index]
    return {s.results[0]: held for s, held in zip(site.strategies, site.weight_bytes, strict=True)}


def test_a_weight_weighs_its_largest_piece():
    held = by_layout(task_of(nn.Linear(6, 8), (X,), num_ranks=3), "p_weight")
    assert held[REPLICATE] == 6 * 8 * 4
    # Eight rows on three ranks: three on the first.
    assert {held[one] for one in held if isinstance(one, Shard) and one.dim == 0} == {3 * 6 * 4}
    assert {held[one] for one in held if isinstance(one, Shard) and one.dim == 1} == {8 * 2 * 4}


def test_what_need_not_be_cut_is_left_out_of_the_bytes():
    pins = Pins(may_stay_whole=frozenset({"p_weight"}))
    assert set(by_layout(task_of(nn.Linear(6, 8), (X,), pins=pins), "p_weight").values()) == {0}


def test_a_linear_cut_in_two_is_half_the_work():
    task = task_of(nn.Linear(600, 800, bias=False), (torch.randn(400, 600),))
    site = problem_of(task).sites[site_of(task, "linear").index]
    work = dict(zip(site.strategies, site.work_us, strict=True))
    whole = next(us for one, us in work.items() if set(one.operands) == {REPLICATE})
    moved = 4 * (400 * 600 + 600 * 800 + 400 * 800)
    assert whole == max(moved / task.cost.memory_bytes_per_us, 2 * 400 * 600 * 800 / task.cost.float32_flops_per_us)
    # The input is read whole; half of the weight's rows give half of the result.
    (half,) = (us for one, us in work.items() if isinstance(one.operands[1], Shard) and one.operands[1].dim == 0)
    moved = 4 * (400 * 600 + 600 * 400 + 400 * 400)
    assert half == max(moved / task.cost.memory_bytes_per_us, 2 * 400 * 600 * 400 / task.cost.float32_flops_per_us)


def test_a_matmul_in_sixteen_bits_has_a_rate_of_its_own():
    model = nn.Linear(600, 800, bias=False).to(torch.bfloat16)
    task = task_of(model, (torch.randn(4000, 600, dtype=torch.bfloat16),))
    site = problem_of(task).sites[site_of(task, "linear").index]
    whole = next(us for one, us in zip(site.strategies, site.work_us, strict=True) if set(one.operands) == {REPLICATE})
    moved = 2 * (4000 * 600 + 600 * 800 + 4000 * 800)
    assert whole == max(moved / task.cost.memory_bytes_per_us, 2 * 4000 * 600 * 800 / task.cost.flops_per_us)


def test_one_rank_alone_does_all_the_work():
    task = task_of(MLPs(5), (torch.randn(4, 12),))
    rules, _, _ = choices_of(task)
    sites = problem_of(task).sites
    most = sum(site.members * max(site.work_us) for site in sites)
    assert whole_work_us(task, rules) == pytest.approx(most)


def test_what_is_made_of_weights_alone_is_a_weight_and_its_sum_is_none():
    class Scaled(nn.Linear):
        def forward(self, x):
            turned = self.weight.t()
            return (x @ turned) / turned.sum(0)

    task = task_of(Scaled(6, 8), (X,))
    names = {task.folded.sites[flow.producer].step.node.name for flow in problem_of(task).values if flow.is_weight}
    assert "p_weight" in names
    assert any("t" in name.split("_") or "permute" in name for name in names - {"p_weight"})
    assert not any("sum" in name for name in names)


def test_folded_values_count_for_every_layer():
    task = task_of(MLPs(5), (torch.randn(4, 12),))
    up = site_of(task, "p_mlps_0_0_weight").index
    (flow,) = [flow for flow in problem_of(task).values if flow.producer == up]
    value = site_of(task, "p_mlps_0_0_weight").step.vals[0]
    assert (flow.members, flow.num_bytes) == (5, 4 * value.numel())
