"""The module tree of a sharded program, with its weights and its predicted time; layers that are alike stand once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardwright.page.facts import Facts, WeightFacts
from shardwright.program.collectives import Collective


@dataclass(frozen=True, slots=True)
class Branch:
    """A module, or ``paths`` of several numbered ones that are alike, of which the first's weights and parts are given.

    ``rank_bytes``: one number a rank. Bytes and microseconds are of one of them, all its parts included.
    """

    name: str
    paths: Sequence[str]
    kind: str
    weights: Sequence[WeightFacts]
    parts: Sequence["Branch"]
    num_bytes: int
    rank_bytes: Sequence[int]
    compute_us: float
    communication_us: float

    @property
    def count(self) -> int:
        """How many modules are alike."""
        return len(self.paths)

    def walk(self) -> Iterator["Branch"]:
        """This branch and all below it, top to bottom."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True, slots=True)
class _Own:
    """What stands at module paths, without what is inside them."""

    children: Mapping[str, Sequence[str]]
    weights: Mapping[str, list[WeightFacts]]
    sent: Mapping[str, list[tuple[Collective, float]]]


def module_branches(facts: Facts) -> Branch:
    """The root module's branch."""
    own = _own(facts)
    return _branch("", [""], facts, own)


def _own(facts: Facts) -> _Own:
    weights: dict[str, list[WeightFacts]] = {}
    for one in facts.weights:
        weights.setdefault(one.name.rpartition(".")[0], []).append(one)
    sent: dict[str, list[tuple[Collective, float]]] = {}
    for collective, time_us in zip(facts.collectives, facts.times_us(), strict=True):
        sent.setdefault(collective.module, []).append((collective, time_us))
    children: dict[str, dict[str, None]] = {}
    for path in (*facts.classes, *weights, *sent, *facts.work_us):
        tokens = path.split(".") if path else []
        for depth in range(len(tokens)):
            children.setdefault(".".join(tokens[:depth]), {})[".".join(tokens[: depth + 1])] = None
    return _Own({path: list(found) for path, found in children.items()}, weights, sent)


def _branch(name: str, paths: Sequence[str], facts: Facts, own: _Own) -> Branch:
    path = paths[0]
    alike: dict[object, list[str]] = {}
    for child in own.children.get(path, ()):
        is_numbered = child.rpartition(".")[2].isdigit()
        alike.setdefault(_content(child, facts, own) if is_numbered else child, []).append(child)
    parts = [_branch(found[0].rpartition(".")[2], found, facts, own) for found in alike.values()]
    weights = own.weights.get(path, [])
    everything = range(facts.mesh.num_ranks)
    return Branch(
        name=name,
        paths=paths,
        kind=facts.classes.get(path, "").rpartition(".")[2],
        weights=weights,
        parts=parts,
        num_bytes=sum(w.num_bytes for w in weights) + sum(part.count * part.num_bytes for part in parts),
        rank_bytes=[
            sum(w.rank_bytes[rank] for w in weights) + sum(part.count * part.rank_bytes[rank] for part in parts)
            for rank in everything
        ],
        compute_us=facts.work_us.get(path, 0.0) + sum(part.count * part.compute_us for part in parts),
        communication_us=sum(time_us for _, time_us in own.sent.get(path, ()))
        + sum(part.count * part.communication_us for part in parts),
    )


def _content(path: str, facts: Facts, own: _Own) -> object:
    """What a module is, whatever its path: modules of equal content are alike."""
    return (
        facts.classes.get(path, ""),
        tuple(
            (w.name.rpartition(".")[2], w.kind, w.shape, w.dtype, tuple(w.layouts.items()), w.rank_bytes)
            for w in own.weights.get(path, ())
        ),
        tuple((c.kind, c.axis, c.num_bytes) for c, _ in own.sent.get(path, ())),
        # Layers of one kind do the same work; a sum of its parts in another order may differ in the last bits.
        f"{facts.work_us.get(path, 0.0):.6g}",
        tuple((child.rpartition(".")[2], _content(child, facts, own)) for child in own.children.get(path, ())),
    )
