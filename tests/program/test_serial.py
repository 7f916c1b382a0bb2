"""While something is compiled, Python looks for garbage among young objects only."""

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


def test_old_objects_are_left_alone_until_the_outermost_ends():
    before, seen = gc.get_threshold(), []
    outer(seen)
    assert {one[:2] for one in seen} == {before[:2]}
    assert all(one[2] > 1_000_000 for one in seen)
    assert gc.get_threshold() == before


def test_an_error_ends_it_too():
    before = gc.get_threshold()
    with pytest.raises(KeyError):
        outer([], KeyError("x"))
    assert gc.get_threshold() == before


def test_what_was_compiled_before_does_not_stay():
    """Exported programs are cycles: only the search for garbage lets go of their weights."""
    thresholds = gc.get_threshold()
    # Old objects are searched when a quarter as many are new: what other tests left does not count, now or later.
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    try:
        seen = []
        for _ in range(8):
            exported = torch.export.export(redraw(Decoder(layers=1)), (torch.zeros(1, 4, dtype=torch.long),))
            seen.append(weakref.ref(exported.state_dict["lm_head.weight"]))
            sw.shard(exported, mesh=2, plan={}).exported(0)
        del exported
        assert sum(one() is not None for one in seen) < 6
    finally:
        gc.set_threshold(*thresholds)
