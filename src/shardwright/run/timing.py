"""Timing calls beside each other: in turn, so that whatever else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def seconds_in_turn(
    calls: Mapping[Name, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    before: Callable[[Name], object] = lambda name: None,
    after: Callable[[], object] = lambda: None,
) -> dict[Name, list[float]]:
    """The seconds of every call, over ``rounds`` of all of them; those before, to ``warm_up``, are not
    counted.

    ``before`` each call, by its name, which is not timed: a barrier. ``after`` it, which is: what waits for a device.
    """
    found: dict[Name, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            before(name)
            start = time.perf_counter()
            call()
            after()
            if number >= warm_up:
                found[name].append(time.perf_counter() - start)
    return found


def usual(seconds: list[float]) -> float:
    """The first decile: what a call takes when nothing else is in its way."""
    return sorted(seconds)[len(seconds) // 10]
