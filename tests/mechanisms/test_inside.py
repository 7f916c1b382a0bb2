"""Subgraphs that communicate: weights in branches and loop bodies are cut, and sums taken inside or right behind."""

import copy
import functools
import io
from collections import Counter

import pytest
import torch

import shardwright as sw
from tests.support import inside
from tests.support.ranks import on_ranks

PLAN = {"up": "colwise", "down": "rowwise"}
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))

SUMS = {
    inside.Branches: 1,
    inside.OneBranch: 1,
    inside.Curved: 2,
    inside.SecondInside: 1,
    inside.FirstInside: 1,
    inside.Nested: 1,
    inside.Loop: 1,
    inside.Scan: 2,
    inside.Rows: 1,
    inside.Stack: 1,
}
"""How many all-reduces each takes: a branch counts by itself, and a sum that leaves a subgraph is taken once."""


@functools.cache
def exported_of(model, **options):
    torch.manual_seed(0)
    return torch.export.export(model(**options).eval(), (X,), strict=True)


def sharded(model, num_ranks, plan, **options):
    exported = exported_of(model, **options)
    result = sw.shard(exported, mesh=num_ranks, plan=plan)
    for x in (X, -X, X.abs(), -X.abs()):
        report = sw.verify(result, exported, (x,))
        assert report.ok, str(report)
    return result, exported


@pytest.mark.parametrize("num_ranks", [2, 5])
@pytest.mark.parametrize("model", SUMS, ids=lambda model: model.__name__)
def test_weights_inside_are_cut_as_the_plan_says(model, num_ranks):
    result, _ = sharded(model, num_ranks, PLAN)
    assert Counter(c.kind for c in result.collectives) == {"all_reduce": SUMS[model]}
    assert result.fallbacks == []


@pytest.mark.parametrize("model", SUMS, ids=lambda model: model.__name__)
def test_weights_inside_are_cut_under_auto(model):
    result, _ = sharded(model, 2, "auto", hidden=1024)
    assert Counter(c.kind for c in result.collectives) == {"all_reduce": SUMS[model]}
    assert max(result.rank_bytes) < 0.51 * sum(w.num_bytes for w in result.weights)


MOVES = {
    "a cut bias": {"down.bias": sw.Shard(0)},
    "a sum cut again": {"up": "rowwise", "down": "rowwise"},
    "columns twice": {"up": "colwise", "down": "colwise"},
}


@pytest.mark.parametrize("plan", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("model", [inside.Branches, inside.Nested, inside.Loop, inside.Rows], ids=lambda m: m.__name__)
def test_collectives_of_cuts_stand_inside(model, plan):
    result, _ = sharded(model, 3, plan)
    assert {c.kind for c in result.collectives} - {"all_reduce"}
    result.exported(2).validate()


def test_an_uneven_bias_is_gathered_in_branches():
    result, _ = sharded(inside.Branches, 7, "auto")
    assert "all_gather" in {c.kind for c in result.collectives}


def test_constants_of_a_rank_go_into_its_subgraphs():
    result, _ = sharded(inside.Lookup, 3, {"table.weight": sw.Shard(0)})
    assert {c.kind for c in result.collectives} == {"all_reduce"}


def test_a_second_axis_follows():
    torch.manual_seed(0)
    exported = torch.export.export(inside.Branches().eval(), (X,))
    result = sw.shard(exported, mesh={"dp": 2, "tp": 2}, plan={"tp": PLAN, "dp": {}}, inputs={"dp": sw.Shard(0)})
    assert sw.verify(result, exported, (X,)).ok
    assert not any(c.kind == "all_gather" and c.node.startswith("p_") for c in result.collectives)


@pytest.mark.parametrize("model", [inside.Curved, inside.Loop, inside.Scan], ids=lambda model: model.__name__)
def test_groups_inside_are_named_and_saved(model):
    result, _ = sharded(model, 2, PLAN)
    buffer = io.BytesIO()
    torch.export.save(result.exported(1), buffer)
    buffer.seek(0)
    bound = sw.rebind(torch.export.load(buffer), {"tp": "mine"})
    code = "".join(m.code for m in bound.graph_module.modules() if isinstance(m, torch.fx.GraphModule))
    assert "'mine'" in code
    assert "'tp'" not in code


def run(rank, programs):
    module = torch.export.load(io.BytesIO(programs[rank])).module()
    compiled = torch.compile(copy.deepcopy(module), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        return [f(x) for f in (module, compiled) for x in (X, -X)]


@pytest.mark.ranks
@pytest.mark.parametrize("model", [inside.Curved, inside.Loop, inside.Scan], ids=lambda model: model.__name__)
def test_real_ranks_run_what_communicates_inside(model):
    result, exported = sharded(model, 2, PLAN)
    programs = []
    for rank in range(2):
        buffer = io.BytesIO()
        torch.export.save(result.exported(rank, group_names={"tp": "0"}), buffer)
        programs.append(buffer.getvalue())
    wanted = [exported.module()(x) for x in (X, -X)] * 2
    for found in on_ranks(2, run, programs):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
