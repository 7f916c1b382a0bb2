"""The cost model: microseconds for changes of layout and for work, from a few documented constants.

It only has to rank assignments, so it is small: a change of layout costs a latency plus its bytes over the link, an
operator the larger of its arithmetic and its memory traffic. Absolute times are not promised. `assign.hardware` has the
constants of common devices by name, and reads those that were measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from shardwright.errors import ShardwrightError
from shardwright.layout.layout import Layout, Owned, Partial, Replicate, Shard, cut_of
from shardwright.layout.values import is_number
from shardwright.program.collectives import CollectiveKind
from shardwright.rules.rule import Strategy


@dataclass(frozen=True, slots=True)
class CostModel:
    """Constants of a device and its links. The defaults are those of an H100 with direct links (NVLink 4).

    ``latency_us``: time of a collective on an empty tensor. ``link_bytes_per_us``: one direction, per rank.
    ``memory_bytes_per_us``: what an operator reads and writes. ``flops_per_us``: of matmuls in 16 bits or fewer;
    ``float32_flops_per_us``: of all others. ``reduce_scatter_passes``: how often a reduce-scatter sends what it has to;
    2 where the backend makes it an all-reduce, as gloo does. ``call_us``: what a call takes whatever its size; 0 where
    calls are issued ahead of the work, as on GPUs. It changes predicted times, and no plan. ``name``: of the device,
    for people; it takes no part in comparisons.
    """

    latency_us: float = 10.0
    link_bytes_per_us: float = 200e3
    memory_bytes_per_us: float = 2.5e6
    flops_per_us: float = 400e6
    float32_flops_per_us: float = 50e6
    reduce_scatter_passes: float = 1.0
    call_us: float = 0.0
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Raise `ShardwrightError` for every constant that is not a finite number above 0 (``call_us``: nor 0)."""
        given = {name: getattr(self, name) for name in constant_names()}
        wrong = [f"{name}={value!r}" for name, value in given.items() if not is_constant(name, value)]
        if wrong:
            raise ShardwrightError(f"the constants of a cost model are finite numbers above 0, got {', '.join(wrong)}")
        if not isinstance(self.name, str):
            raise ShardwrightError(f"the name of a cost model must be a string, got {self.name!r}")

    def constants(self) -> dict[str, float]:
        """Everything but the name."""
        return {name: getattr(self, name) for name in constant_names()}

    def redistribute_us(self, source: Layout, target: Layout, num_bytes: int, num_ranks: int) -> float:
        """The time to bring a value of ``num_bytes`` (whole) from one layout to another."""
        if source == target:
            return 0.0
        if isinstance(source, Replicate):
            return 0.01 + 0.1 * num_bytes / self.memory_bytes_per_us
        # Uneven shards are padded to the largest.
        padded = num_bytes * max(
            (held_fraction(one) for one in (source, target) if isinstance(one, Shard)), default=1.0
        )
        if isinstance(source, Shard) or isinstance(target, Shard):
            padded *= num_ranks
        return self.collective_us(collective_kind(source, target), padded, num_ranks)

    def collective_us(self, kind: CollectiveKind, num_bytes: float, num_ranks: int) -> float:
        """The time of a collective on a value of ``num_bytes`` (whole), by the ring algorithms."""
        sent = num_bytes * (num_ranks - 1) / num_ranks
        passes = {
            CollectiveKind.ALL_REDUCE: 2,
            CollectiveKind.ALL_TO_ALL: 1 / num_ranks,
            CollectiveKind.REDUCE_SCATTER: self.reduce_scatter_passes,
        }.get(kind, 1)
        return self.latency_us + sent * passes / self.link_bytes_per_us

    def work_us(
        self, strategy: Strategy, tensor_bytes: Sequence[int], num_products: int, element_bytes: int = 2
    ) -> float:
        """The time of the busiest rank: its pieces of the operands and results moved, its multiply-adds done.

        ``tensor_bytes``: of the whole operands, then results; ``num_products``: multiply-adds of the whole call, on
        elements of ``element_bytes``.
        """
        layouts = (*strategy.operands, *strategy.results)
        moved = sum(size * held_fraction(layout) for size, layout in zip(tensor_bytes, layouts, strict=False))
        rate = self.flops_per_us if element_bytes <= 2 else self.float32_flops_per_us
        return max(moved / self.memory_bytes_per_us, strategy.fraction * 2 * num_products / rate)


def constant_names() -> list[str]:
    """The fields of a `CostModel` that are numbers."""
    return [one.name for one in fields(CostModel) if one.name != "name"]


def is_constant(name: str, value: object) -> bool:
    """Whether a `CostModel` takes this value for its constant ``name``."""
    return is_number(value) and (value > 0 or (name == "call_us" and value == 0))  # type: ignore[operator]


def held_fraction(layout: Layout) -> float:
    """The fraction of a tensor that the rank with most of it holds."""
    return cut_of(layout).largest_fraction if isinstance(layout, Shard) else 1.0


def collective_kind(source: Layout, target: Layout) -> CollectiveKind:
    """The collective that leads from one layout to another one."""
    if isinstance(source, Partial):
        return CollectiveKind.ALL_REDUCE if isinstance(target, Replicate) else CollectiveKind.REDUCE_SCATTER
    return CollectiveKind.ALL_GATHER if isinstance(target, Replicate) else CollectiveKind.ALL_TO_ALL


def has_collective(source: Layout, target: Layout) -> bool:
    """Whether one collective leads from ``source`` to ``target``.

    Nothing becomes ``Partial`` by a collective, and one cut becomes another on the same dim only by way of the whole.
    Owned rows stay with the ranks that made them.
    """
    if isinstance(source, Replicate | Owned) or isinstance(target, Partial | Owned):
        return False
    return not isinstance(source, Shard) or not isinstance(target, Shard) or exchanges(source, target)


def exchanges(source: Shard, target: Shard) -> bool:
    """Whether an all-to-all leads from one cut to another: two dims, both in equal chunks."""
    cuts = cut_of(source), cut_of(target)
    return source.dim != target.dim and all(cut.is_even and cut.is_chunked for cut in cuts)
