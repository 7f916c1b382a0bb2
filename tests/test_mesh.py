"""The mesh: ranks and coordinates, groups, and what it takes."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.errors import ShardwrightError
from shardwright.mesh import Mesh

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
