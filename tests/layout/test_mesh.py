"""The mesh: ranks and coordinates, groups, and what it takes."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from shardwright import Shard, gather, load, reshard, shard
from shardwright.errors import ShardwrightError
from shardwright.layout.mesh import Mesh
from shardwright.package.manifest import read_manifest
from tests.support.ranks import on_ranks

AXES = st.dictionaries(st.sampled_from(["dp", "pp", "tp"]), st.integers(1, 4), min_size=1)


@given(AXES)
def test_rank_and_coordinate_are_inverse(axes):
    mesh = Mesh.of(axes)
    assert [mesh.rank(mesh.coordinate(rank)) for rank in range(mesh.num_ranks)] == list(range(mesh.num_ranks))


@given(AXES)
def test_groups_of_an_axis_hold_every_rank_once(axes):
    mesh = Mesh.of(axes)
    for axis, size in mesh:
        groups = mesh.groups(axis)
        assert sorted(rank for group in groups for rank in group) == list(range(mesh.num_ranks))
        assert {len(group) for group in groups} == {size}
        for group in groups:
            assert [mesh.coordinate(rank)[axis] for rank in group] == list(range(size))


def test_the_last_axis_is_fastest():
    assert Mesh.of({"dp": 2, "tp": 4}).coordinate(6) == {"dp": 1, "tp": 2}
    assert Mesh.of({"dp": 2, "tp": 2}).groups("dp") == [[0, 2], [1, 3]]


def test_what_a_mesh_may_be():
    assert Mesh.of(4).axes == (("tp", 4),)
    assert Mesh.of(SimpleNamespace(mesh_dim_names=("dp", "tp"), shape=(2, 4))).axes == (("dp", 2), ("tp", 4))
    assert Mesh.of(Mesh.of(2)) == Mesh.of(2)


@pytest.mark.parametrize("bad", [0, -1, {}, {"tp": 0}, {"tp": "2"}, "tp", None, True])
def test_what_a_mesh_may_not_be(bad):
    with pytest.raises(ShardwrightError, match="mesh"):
        Mesh.of(bad)


def test_a_rank_outside():
    with pytest.raises(ShardwrightError, match="rank 4 is not in the mesh"):
        Mesh.of(4).coordinate(4)


def device_mesh(table, names=None):
    table = torch.tensor(table)
    return SimpleNamespace(mesh=table, shape=tuple(table.shape), mesh_dim_names=names)


def test_a_device_mesh_keeps_its_rank_numbers():
    mesh = Mesh.of(device_mesh([[0, 2], [1, 3]], ("dp", "tp")))
    assert [mesh.coordinate(mesh.place(rank)) for rank in range(4)] == [
        {"dp": 0, "tp": 0},
        {"dp": 1, "tp": 0},
        {"dp": 0, "tp": 1},
        {"dp": 1, "tp": 1},
    ]
    assert mesh.rank_groups("tp") == [[0, 2], [1, 3]]
    assert mesh.rank_groups("dp") == [[0, 1], [2, 3]]
    assert Mesh.of(device_mesh([[0, 1], [2, 3]], ("dp", "tp"))) == Mesh.of({"dp": 2, "tp": 2})
    assert mesh.split("tp", 2).ranks == mesh.ranks


def test_a_part_of_a_world():
    mesh = Mesh.of(device_mesh([1, 3]))
    assert [mesh.place(rank) for rank in (1, 3)] == [0, 1]
    with pytest.raises(ShardwrightError, match=r"rank 0 is not in the mesh .* it has ranks 1, 3"):
        mesh.place(0)
    with pytest.raises(ShardwrightError, match="it has ranks 0 to 1"):
        Mesh.of(2).place(2)


@pytest.mark.parametrize("table", [[1, 0], [[0, 1], [3, 2]], [[2, 3], [0, 1]]])
def test_ranks_that_fall_along_an_axis(table):
    with pytest.raises(ShardwrightError, match="rise along every axis"):
        Mesh.of(device_mesh(table))


def test_every_rank_gets_the_piece_of_its_own_place():
    exported = torch.export.export(torch.nn.Linear(4, 4, bias=False), (torch.randn(2, 4),))
    plan = {"dp": {"weight": Shard(0)}, "tp": {"weight": Shard(1)}}
    whole = exported.state_dict["weight"].detach()
    sharded = shard(exported, mesh=device_mesh([[0, 2], [1, 3]], ("dp", "tp")), plan=plan)
    for rank, (row, column) in enumerate([(0, 0), (2, 0), (0, 2), (2, 2)]):
        piece = sharded.exported(rank).state_dict["weight"].detach()
        assert torch.equal(piece, whole[row : row + 2, column : column + 2])


def run_on_mesh(rank, folder, x):
    with torch.no_grad():
        return load(folder)(x)


@pytest.mark.ranks
def test_a_package_of_a_mesh_with_other_rank_numbers(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8)).requires_grad_(False)
    x = torch.randn(4, 8)
    plan = {"dp": {"0": "colwise", "2": "rowwise"}, "tp": {"0": "rowwise", "2": "colwise"}}
    mesh = device_mesh([[0, 2], [1, 3]], ("dp", "tp"))
    sharded = shard(torch.export.export(model, (x,)), mesh=mesh, plan=plan)
    sharded.save(tmp_path / "p")
    assert read_manifest(tmp_path / "p").ranks == [0, 2, 1, 3]
    for got in on_ranks(4, run_on_mesh, str(tmp_path / "p"), x):
        torch.testing.assert_close(got, model(x))
    reshard(tmp_path / "p", tmp_path / "again", mesh={"dp": 2, "tp": 2})
    gather(tmp_path / "again", tmp_path / "whole.safetensors")
    stored = load_file(tmp_path / "whole.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
