"""What a page and a comparison are made from, whether of a sharded program or of a package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from shardwright.assign.assignment import Fallback
from shardwright.assign.cost import CostModel
from shardwright.assign.gathered import GatheredWeight
from shardwright.layout.layout import Layout
from shardwright.layout.mesh import Mesh
from shardwright.package.manifest import Manifest, TensorEntry
from shardwright.package.stored import rank_cuts
from shardwright.program.collectives import Collective, CollectiveKind
from shardwright.program.program import Weight


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """A parameter, buffer or constant: whole, and on every rank. ``layouts``: axis → layout, as the first rank has it;
    ``rank_bytes``: one number a rank.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    layouts: Mapping[str, Layout]
    num_bytes: int
    rank_bytes: tuple[int, ...]
    plan_key: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a sharded program.

    ``classes``: module path → class name, '' where unknown. ``cost``: what times are predicted by. ``work_us``: module
    path → microseconds of its own operators on the busiest rank, without those of modules inside it; empty where no
    operators are known. ``notes``: sentences that hold for the whole.
    """

    mesh: Mesh
    weights: Sequence[WeightFacts]
    collectives: Sequence[Collective]
    cost: CostModel
    classes: Mapping[str, str] = field(default_factory=dict)
    work_us: Mapping[str, float] = field(default_factory=dict)
    fallbacks: Sequence[Fallback] = ()
    gathered: Sequence[GatheredWeight] = ()
    notes: Sequence[str] = ()

    @property
    def num_bytes(self) -> int:
        """The bytes of all weights, whole."""
        return sum(one.num_bytes for one in self.weights)

    @property
    def rank_bytes(self) -> list[int]:
        """The bytes of weights that every rank holds."""
        return [sum(one.rank_bytes[rank] for one in self.weights) for rank in range(self.mesh.num_ranks)]

    def times_us(self) -> list[float]:
        """The predicted time of each collective; of those sent together, the first has the latency of their message."""
        times, seen = [], set()
        for one in self.collectives:
            time_us = self.cost.collective_us(one.kind, one.num_bytes, self.mesh.size(one.axis))
            times.append(time_us - self.cost.latency_us if one.message in seen else time_us)
            seen |= {one.message} - {0}
        return times


def package_facts(folder: str | Path, manifest: Manifest, cost: CostModel) -> Facts:
    """What a package's manifest says. Its operators are in its graphs, so that only communication is predicted."""
    mesh = manifest.as_mesh()
    collectives = [
        Collective(
            kind=CollectiveKind(one.kind),
            axis=one.axis,
            num_bytes=one.num_bytes,
            shape=(),
            module=one.module,
            source=one.source,
            node="",
            cause=one.cause,
            message=one.message,
        )
        for one in manifest.collectives
    ]
    weights = [_weight_facts(entry, mesh, Path(folder)) for entry in manifest.tensors]
    notes = [
        "A package does not say what its operators cost, nor which of them run whole: only communication is predicted."
    ]
    return Facts(mesh, weights, collectives, cost, notes=notes)


def _weight_facts(entry: TensorEntry, mesh: Mesh, folder: Path) -> WeightFacts:
    whole = Weight(torch.empty(entry.shape, dtype=getattr(torch, entry.dtype), device="meta"))
    held: list[int] = []
    layouts: dict[str, Layout] = {}
    for rank in range(mesh.num_ranks):
        where, piece = mesh.coordinate(rank), whole
        for axis, layout in rank_cuts(entry, where, mesh, folder):
            piece = piece.with_cut(layout, where[axis])
            layouts.setdefault(axis, layout)
        held.append(piece.num_bytes)
    return WeightFacts(entry.name, entry.kind, tuple(entry.shape), entry.dtype, layouts, whole.num_bytes, tuple(held))
