"""What two sharded programs differ in: layouts of weights, collectives, and what they cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shardwright.page.facts import Facts, WeightFacts
from shardwright.page.words import format_layout, star_layers


@dataclass(frozen=True, slots=True)
class WeightDifference:
    """Weights of layers alike that are held otherwise: how, and the bytes of all of them on the busiest rank.

    A layout is '' where a program has no such weight.
    """

    name: str
    count: int
    layouts: tuple[str, str]
    rank_bytes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CollectiveDifference:
    """Collectives of a kind, size and place, layers alike, of which the two programs have not as many."""

    kind: str
    axis: str
    num_bytes: int
    module: str
    counts: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Total:
    """A number of the whole of each program. ``unit``: "bytes", "us", or '' for a count."""

    what: str
    unit: str
    values: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything two programs differ in, and their totals whether they differ or not."""

    weights: Sequence[WeightDifference]
    collectives: Sequence[CollectiveDifference]
    totals: Sequence[Total]

    @property
    def is_empty(self) -> bool:
        """Whether weights and collectives are the same."""
        return not self.weights and not self.collectives


def compare(first: Facts, second: Facts) -> Difference:
    """The difference of two programs, in the order of the first, then of the second."""
    return Difference(_weights(first, second), _collectives(first, second), _totals(first, second))


def _weights(first: Facts, second: Facts) -> list[WeightDifference]:
    both = [{one.name: one for one in facts.weights} for facts in (first, second)]
    found: dict[tuple[object, ...], WeightDifference] = {}
    for name in dict.fromkeys([*both[0], *both[1]]):
        a, b = (weights.get(name) for weights in both)
        if a is not None and b is not None and _held_alike(a, b):
            continue
        key = star_layers(name), _layout(a), _layout(b), a and a.shape, b and b.shape
        known = found.get(key)
        count, held = (known.count, known.rank_bytes) if known else (0, (0, 0))
        sums = held[0] + _held(a), held[1] + _held(b)
        found[key] = WeightDifference(star_layers(name), count + 1, (_layout(a), _layout(b)), sums)
    return list(found.values())


def _held_alike(a: WeightFacts, b: WeightFacts) -> bool:
    """Whether two programs have one weight, and cut it alike; what is whole is so on any number of ranks."""
    same = (a.shape, a.dtype, _layout(a)) == (b.shape, b.dtype, _layout(b))
    return same and (a.rank_bytes == b.rank_bytes or {*a.rank_bytes} == {*b.rank_bytes} == {a.num_bytes})


def _layout(weight: WeightFacts | None) -> str:
    layouts = weight.layouts if weight is not None else {}
    return ", ".join(f"{axis}: {format_layout(layout)}" for axis, layout in layouts.items())


def _held(weight: WeightFacts | None) -> int:
    """What the busiest rank has of it."""
    return max(weight.rank_bytes) if weight is not None else 0


def _collectives(first: Facts, second: Facts) -> list[CollectiveDifference]:
    counts = [
        Counter((str(one.kind), one.axis, one.num_bytes, star_layers(one.module)) for one in facts.collectives)
        for facts in (first, second)
    ]
    return [
        CollectiveDifference(*key, (counts[0][key], counts[1][key]))
        for key in dict.fromkeys([*counts[0], *counts[1]])
        if counts[0][key] != counts[1][key]
    ]


def _totals(first: Facts, second: Facts) -> list[Total]:
    both = first, second
    found = [
        Total("ranks", "", _pair([one.mesh.num_ranks for one in both])),
        Total("weights on the busiest rank", "bytes", _pair([max(one.rank_bytes, default=0) for one in both])),
        Total("collectives", "", _pair([len(one.collectives) for one in both])),
        Total(
            "bytes of collectives, whole", "bytes", _pair([sum(c.num_bytes for c in one.collectives) for one in both])
        ),
        Total("predicted communication", "us", _pair([sum(one.times_us()) for one in both])),
    ]
    if all(one.work_us for one in both):
        compute = [sum(one.work_us.values()) for one in both]
        found.append(Total("predicted compute of the busiest rank", "us", _pair(compute)))
    return found


def _pair(values: Sequence[float]) -> tuple[float, float]:
    return values[0], values[1]
