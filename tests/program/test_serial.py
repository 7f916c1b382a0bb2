"""While something is compiled, Python looks for garbage among young objects only, and less often."""

import gc
import weakref

import pytest
import torch

import shardwright as sw
from shardwright.program.serial import one_at_a_time
from tests.support.models import Decoder, redraw


@one_at_a_time
def inner(seen):
    seen.append(gc.get_threshold())


@one_at_a_time
def outer(seen, error=None):
    seen.append(gc.get_threshold())
    inner(seen)
    seen.append(gc.get_threshold())
    if error is not None:
        raise error


@pytest.fixture
def thresholds():
    """What a new process has, whatever a test sets."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_old_objects_are_left_alone_until_the_outermost_ends(thresholds):
    seen = []
    outer(seen)
    assert all(young > 700 and middle == 10 and old > 1_000_000 for young, middle, old in seen)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("young", [0, 1_000_000])
def test_who_wants_fewer_searches_has_them(thresholds, young):
    seen = []
    gc.set_threshold(young, 10, 10)
    outer(seen)
    assert {one[0] for one in seen} == {young}
    assert gc.get_threshold() == (young, 10, 10)


def test_an_error_ends_it_too():
    before = gc.get_threshold()
    with pytest.raises(KeyError):
        outer([], KeyError("x"))
    assert gc.get_threshold() == before


def test_what_was_compiled_before_does_not_stay(thresholds):
    """Exported programs are cycles: only the search for garbage lets go of their weights."""
    # Old objects are searched when a quarter as many are new: what other tests left does not count, now or later.
    gc.collect()
    gc.freeze()
    seen = []
    for _ in range(8):
        exported = torch.export.export(redraw(Decoder(layers=1)), (torch.zeros(1, 4, dtype=torch.long),))
        seen.append(weakref.ref(exported.state_dict["lm_head.weight"]))
        sw.shard(exported, mesh=2, plan={}).exported(0)
    del exported
    assert sum(one() is not None for one in seen) < 6
