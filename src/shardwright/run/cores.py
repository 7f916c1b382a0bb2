"""Which cores each local rank runs on: neighbours of one NUMA node, as many for each rank."""

import os
from pathlib import Path

_NODES = Path("/sys/devices/system/node")


def share_of(rank: int, num_ranks: int) -> list[int]:
    """The cores of ``rank`` among ``num_ranks`` on this machine; none where there are fewer cores than ranks.

    Only cores that this process may use count. Their order is by NUMA node, so that a rank's are on one node where the
    numbers allow it.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    node_of = _node_of()
    cores = sorted(os.sched_getaffinity(0), key=lambda core: (node_of.get(core, 0), core))
    each = len(cores) // num_ranks
    return cores[rank * each : (rank + 1) * each]


def bind_cores(rank: int, num_ranks: int) -> int:
    """Keep this process on its share of the cores; how many those are, at least 1."""
    cores = share_of(rank, num_ranks)
    if cores:
        os.sched_setaffinity(0, cores)
    return max(len(cores), 1)


def _node_of() -> dict[int, int]:
    """Core → NUMA node; empty where the system does not say."""
    found = {}
    for path in sorted(_NODES.glob("node[0-9]*/cpulist")):
        node = int(path.parent.name.removeprefix("node"))
        for part in path.read_text().strip().split(","):
            first, _, last = part.partition("-")
            if first:
                found.update(dict.fromkeys(range(int(first), int(last or first) + 1), node))
    return found
