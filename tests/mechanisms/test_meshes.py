"""Several mesh axes: what one leaves uneven, the next ones cut on."""

from functools import partial

import pytest
import torch
from evals.fuzz.programs import draw_case
from safetensors.torch import load_file
from torch import nn

import shardwright as sw
from shardwright.package.manifest import read_manifest
from shardwright.report.tables import weights_table
from tests.support import inside
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.ranks import on_ranks
from tests.support.sharding import check

MEGATRON_MLP = {"0": "colwise", "2": "rowwise"}
PAIR = {"up": "colwise", "down": "rowwise"}
SQUARE = {"a": 2, "b": 2}
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def mlp(width, hidden):
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def convolutions():
    return nn.Sequential(nn.Conv1d(4, 6, 3), nn.GELU(), nn.Conv1d(6, 5, 3))


MODELS = {
    "8-6-8": (partial(mlp, 8, 6), torch.randn(4, 8)),
    "8-7-8": (partial(mlp, 8, 7), torch.randn(4, 8)),
    "three rows": (partial(mlp, 8, 16), torch.randn(3, 8)),
    "7-9-7": (partial(mlp, 7, 9), torch.randn(5, 7)),
    "convolutions": (convolutions, torch.randn(2, 4, 9)),
}


@pytest.mark.parametrize("mesh", [SQUARE, {"a": 4, "b": 2}, {"a": 3, "b": 2}, {"a": 2, "b": 2, "c": 2}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_automatic_plan_of_an_axis_leaves_the_next_something_to_cut(name, mesh):
    model, x = MODELS[name]
    for plan in (dict.fromkeys(mesh, "auto"), {"a": "auto"}, {"b": "auto"}):
        check(model(), (x,), mesh, plan)


@pytest.mark.parametrize("hidden", [4, 7, 9])
def test_a_pair_costs_one_sum_an_axis_however_its_features_divide(hidden):
    sharded = check(mlp(8, hidden), (torch.randn(4, 8),), SQUARE, {"a": MEGATRON_MLP, "b": MEGATRON_MLP})
    assert sorted((c.kind, c.axis) for c in sharded.collectives) == [("all_reduce", "a"), ("all_reduce", "b")]
    (up,) = (w for w in sharded.weights if w.name == "0.weight")
    rows = [piece.shape[0] for half in torch.ones(hidden, 8).chunk(2) for piece in half.chunk(2)]
    assert [held // (8 * 8) for held in up.rank_bytes] == rows


def test_ranks_with_pieces_of_other_lengths_are_assigned_once_for_each_kind():
    """Ten features on four ranks are 3, 3, 3 and 1."""
    sharded = check(mlp(8, 10), (torch.randn(4, 8),), {"a": 4, "b": 2}, {"a": MEGATRON_MLP, "b": MEGATRON_MLP})
    assert list(sharded.compiled.axes[1].assignments) == [(0,), (3,)]
    assert sharded.compiled.axes[0].alike == (0, 0, 0, 3)


def test_a_batch_that_does_not_divide_takes_no_second_solution():
    """Rows are cut on one axis and features on the other: what is cut next has one size everywhere."""
    model, ids = redraw(Decoder(heads=4, kv_heads=2, width=32, hidden=32)), torch.randint(0, 96, (3, 5))
    exported = torch.export.export(model, (ids,))
    rows = {"dp": sw.Shard(0)}
    sharded = sw.shard(exported, mesh={"dp": 2, "tp": 2}, plan={"tp": MEGATRON}, inputs=rows, outputs=rows)
    first, second = sharded.compiled.axes[1].assignments.values()
    assert first.solution is second.solution
    assert sorted((c.kind, c.axis) for c in sharded.collectives) == [("all_reduce", "tp")] * 4
    assert sw.verify(sharded, exported, (ids,)).ok


def test_scarce_heads_split_an_axis_beside_one_that_is_uneven():
    model, ids = redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64)), torch.randint(0, 96, (3, 5))
    exported = torch.export.export(model, (ids,))
    rows = {"dp": sw.Shard(0)}
    sharded = sw.shard(exported, mesh={"dp": 2, "tp": 4}, plan={"tp": MEGATRON}, inputs=rows, outputs=rows)
    assert sharded.mesh.names == ("dp", "tp.0", "tp.1")
    assert sorted((c.kind, c.axis) for c in sharded.collectives) == [("all_reduce", "tp")] * 4
    assert sw.verify(sharded, exported, (ids,)).ok


class Last(nn.Module):
    """Features of which each half is used by itself: three on two ranks are two and one."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 3), nn.Linear(3, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def saved(folder):
    exported = torch.export.export(redraw(Last()), (X,))
    sharded = sw.shard(exported, mesh=SQUARE, plan={"a": PAIR, "b": PAIR})
    sharded.save(folder)
    return exported, sharded


def test_a_package_says_where_layouts_differ_from_place_to_place(tmp_path):
    """The one feature of the second half is whole on both ranks of its own second axis."""
    exported, sharded = saved(tmp_path / "p")
    (up,) = (w for w in sharded.weights if w.name == "up.weight")
    assert repr(up.layouts) == "{'a': Shard(0), 'b': Shard(0)}"
    assert up.elsewhere == {"b": {(1,): sw.Replicate()}}
    (entry,) = (t for t in read_manifest(tmp_path / "p").tensors if t.name == "up.weight")
    assert entry.elsewhere == {"b": {"1": "replicate"}}
    sw.reshard(tmp_path / "p", tmp_path / "q", mesh=SQUARE)
    sw.reshard(tmp_path / "p", tmp_path / "r", mesh=3, plan="auto")
    for name in "pqr":
        sw.gather(tmp_path / name, tmp_path / f"{name}.safetensors")
        whole = load_file(tmp_path / f"{name}.safetensors")
        assert whole.keys() == exported.state_dict.keys()
        assert all(torch.equal(whole[key], value) for key, value in exported.state_dict.items())


def test_reports_say_what_is_otherwise_elsewhere(tmp_path):
    exported = torch.export.export(redraw(Last()), (X,))
    sharded = sw.shard(exported, mesh=SQUARE, plan={"a": PAIR, "b": PAIR}, dump=tmp_path / "stages")
    rows = {row["tensor"]: row["layout"] for row in weights_table(sharded).as_data()}
    assert rows["up.weight"] == "a: Shard(0), b: Shard(0) or whole"
    names = sorted(path.name for path in (tmp_path / "stages").glob("*assignment*"))
    assert names == ["04-a-assignment.txt", "08-b-assignment.txt", "09-b-assignment-at-1.txt"]


def loaded_outputs(rank, folder):
    return sw.load(folder)(X)


@pytest.mark.ranks
def test_real_ranks_of_which_some_meet_along_one_axis_only(tmp_path):
    exported, sharded = saved(tmp_path / "p")
    axes = [{c.axis for c in sharded.compiled.collectives(place)} for place in ((0, 0), (1, 0))]
    assert axes == [{"a", "b"}, {"a"}]
    for out in on_ranks(4, loaded_outputs, tmp_path / "p"):
        torch.testing.assert_close(out, exported.module()(X), rtol=1e-5, atol=1e-5)


class Grouped(nn.Module):
    """Features in groups of three, which a softmax takes whole: one group of the second half is none for two ranks."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 9), nn.Linear(9, 8)

    def forward(self, x):
        return self.down(self.up(x).unflatten(-1, (3, 3)).softmax(-1).flatten(-2))


def test_what_only_some_ranks_communicate_is_listed_and_counted():
    exported = torch.export.export(redraw(Grouped()), (X,))
    sharded = sw.shard(exported, mesh=SQUARE, plan={"a": PAIR, "b": PAIR})
    first, others = (sharded.compiled.collectives(place) for place in ((0, 0), (1, 0)))
    assert [(c.kind, c.axis) for c in first] == [("all_reduce", "b"), ("all_reduce", "a")]
    assert [(c.kind, c.axis) for c in others] == [("all_gather", "b"), *((c.kind, c.axis) for c in first)]
    assert sharded.collectives == [*first, others[0]]
    sw.shard(exported, mesh=SQUARE, plan={"a": PAIR, "b": PAIR}, budget={"all_reduce": 2, "all_gather": 1})
    with pytest.raises(sw.BudgetError, match="all_gather on axis 'b'"):
        sw.shard(exported, mesh=SQUARE, plan={"a": PAIR, "b": PAIR}, budget={"all_reduce": 2})


@pytest.mark.parametrize("model", [inside.Branches, inside.Loop], ids=lambda model: model.__name__)
def test_what_communicates_inside_a_region_is_whole_where_pieces_differ(model):
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    exported = torch.export.export(model(hidden=7).eval(), (x,))
    sharded = sw.shard(exported, mesh=SQUARE, plan={"a": PAIR, "b": PAIR})
    for given in (x, -x):
        assert sw.verify(sharded, exported, (given,)).ok


def test_a_tied_table_of_odd_size():
    model = Decoder(layers=1, width=36, heads=6, kv_heads=3, hidden=50, vocab=97, tied=True)
    check(model, (torch.randint(0, 96, (3, 5)),), {"a": 3, "b": 2}, {"a": "auto", "b": "auto"})


@pytest.mark.parametrize("seed", [15, 31, 37, 74])
@pytest.mark.parametrize("num_axes", [2, 3])
def test_random_programs_on_several_axes(seed, num_axes):
    """A sample of ``python -m evals.fuzz programs-2 programs-3``: judged against the model in float64."""
    verdict = draw_case(seed, num_axes).verdict()
    assert verdict.word == "right", verdict.said
