"""While something is compiled, Python looks for garbage among new objects only."""

import gc

import pytest

from shardwright.program.serial import one_at_a_time


@pytest.fixture(autouse=True)
def _nothing_is_frozen():
    gc.unfreeze()
    yield
    gc.unfreeze()


@one_at_a_time
def inner(seen):
    seen.append(gc.get_freeze_count())


@one_at_a_time
def outer(seen, error=None):
    seen.append(gc.get_freeze_count())
    inner(seen)
    seen.append(gc.get_freeze_count())
    if error is not None:
        raise error


def test_what_was_there_before_is_frozen_until_the_outermost_ends():
    seen = []
    outer(seen)
    assert all(seen)
    assert gc.get_freeze_count() == 0


def test_an_error_ends_it_too():
    with pytest.raises(KeyError):
        outer([], KeyError("x"))
    assert gc.get_freeze_count() == 0


def test_what_a_caller_has_frozen_stays_frozen():
    gc.freeze()
    outer([])
    assert gc.get_freeze_count()


def test_garbage_that_a_compilation_makes_is_found():
    @one_at_a_time
    def make():
        found = []
        for _ in range(3):
            cycle = []
            cycle.append(cycle)
            found.append(id(cycle))
        del cycle
        return gc.collect()

    assert make() >= 3
