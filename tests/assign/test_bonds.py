"""Disjoint sets."""

from hypothesis import given
from hypothesis import strategies as st

from shardwright.assign.bonds import Bonds

pairs = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20)


@given(pairs)
def test_what_is_bound_by_way_of_others_has_one_root(bound):
    bonds = Bonds()
    sets = {one: {one} for one in range(13)}
    for one, other in bound:
        bonds.join((one, other))
        joined = sets[one] | sets[other]
        sets.update(dict.fromkeys(joined, joined))
    for one in range(13):
        for other in range(13):
            assert (bonds.root(one) == bonds.root(other)) == (other in sets[one])
    assert set(bonds.members()) == {one for one in range(13) if len(sets[one]) > 1}
    assert bonds.num_joins == 13 - len({bonds.root(one) for one in range(13)})
    groups = {tuple(sorted(sets[one])) for one in range(13) if len(sets[one]) > 1}
    assert sorted(map(tuple, bonds.groups())) == sorted(groups)


@given(pairs)
def test_the_first_one_stands_for_what_is_joined(bound):
    bonds = Bonds()
    for one, other in bound:
        root = bonds.root(one)
        bonds.join((one, other))
        assert bonds.root(other) == root
