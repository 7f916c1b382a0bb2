"""Predicted time along a program's depth: compute and communication of every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from shardwright.page.facts import Facts


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A layer, or several neighbours that take equally long: their paths, and microseconds of one of them."""

    paths: Sequence[str]
    compute_us: float
    communication_us: float

    @property
    def name(self) -> str:
        """The layer's path; the first's and the last's of several."""
        first, last = self.paths[0], self.paths[-1]
        if first == last:
            return first or "(the root module)"
        prefix, _, number = last.rpartition(".")
        return f"{first} … {number}" if first.rpartition(".")[0] == prefix else f"{first} … {last}"


def layer_times(facts: Facts) -> list[LayerTime]:
    """Every layer that takes time, in order of its first operator, those that only communicate last; neighbours that
    take equally long are one.
    """
    compute: dict[str, float] = {}
    communication: dict[str, float] = {}
    for path, time_us in facts.work_us.items():
        compute[_layer(path)] = compute.get(_layer(path), 0.0) + time_us
    for one, time_us in zip(facts.collectives, facts.times_us(), strict=True):
        communication[_layer(one.module)] = communication.get(_layer(one.module), 0.0) + time_us
    found: list[LayerTime] = []
    for path in dict.fromkeys([*compute, *communication]):
        time = LayerTime([path], compute.get(path, 0.0), communication.get(path, 0.0))
        if found and _is_next(found[-1], time):
            time = LayerTime([*found.pop().paths, path], time.compute_us, time.communication_us)
        found.append(time)
    return found


def _layer(path: str) -> str:
    """The layer that a module belongs to: down to the first number of its path, or its first name."""
    tokens = path.split(".")
    depth = next((depth for depth, token in enumerate(tokens, 1) if token.isdigit()), 1)
    return ".".join(tokens[:depth])


def _is_next(before: LayerTime, one: LayerTime) -> bool:
    """Whether a layer follows one that takes as long, in the same list of layers."""
    (list_before, _, number_before), (list_now, _, number) = (
        path.rpartition(".") for path in (before.paths[-1], one.paths[0])
    )
    times = [f"{x.compute_us:.4g} {x.communication_us:.4g}" for x in (before, one)]
    follows = number.isdigit() and number_before.isdigit() and int(number) == int(number_before) + 1
    return follows and list_before == list_now and times[0] == times[1]
