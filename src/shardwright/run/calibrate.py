"""`calibrate`: the constants of a cost model, measured on real ranks of this machine.

Ranks are launched, communicate and have cores as those that run a package, and measure at once, as they work at once.

- Collectives are called as graphs call them: each behind work, which takes one rank longer than another and leaves
  other things in the caches. What the same work takes alone is taken off. Latency and link are the least squares of
  relative errors over ``t = latency + passes · bytes · (ranks − 1) / ranks / link``, of all kinds but the
  reduce-scatter and of all sizes; the passes of a reduce-scatter are then fitted to its own times.
- Memory: a matrix that no cache holds, multiplied with a vector, as decoding reads weights.
- Matmuls: of 512 rows, in float32 and bfloat16. A call: an addition of single numbers; none on a GPU.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import linear

from shardwright.assign.cost import CostModel
from shardwright.assign.cost_file import write_cost_model
from shardwright.errors import RunError
from shardwright.layout.mesh import Mesh
from shardwright.layout.values import check_count, check_free
from shardwright.program.collectives import CollectiveKind
from shardwright.program.torch_private import carrier_of
from shardwright.run.groups import make_group_objects
from shardwright.run.launch import launch
from shardwright.run.timing import seconds_in_turn, usual
from shardwright.run.transport import BACKEND

_c10d = torch.ops._c10d_functional

SIZES = {4 << 10: 60, 64 << 10: 40, 512 << 10: 30, 4 << 20: 12}
"""Bytes of the whole value → rounds."""

PIECES_OF_WORK = 8
"""So many times a round is there work, and a collective behind it."""

_LEAST_S = 1e-7
"""What is taken for nothing at all on a machine that does other things."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one rank measured. ``collectives``: (kind, bytes of the whole value) → microseconds."""

    device: str
    transport: str
    threads: int
    collectives: Mapping[tuple[CollectiveKind, int], float]
    memory_bytes_per_us: float
    flops_per_us: float
    float32_flops_per_us: float
    call_us: float


def calibrate(
    num_ranks: int = 2,
    output: str | os.PathLike[str] | None = None,
    *,
    transport: str | None = None,
    threads: int | None = None,
    timeout_s: float = 600.0,
) -> CostModel:
    """The cost model of this machine: measured on ``num_ranks`` local ranks, in some seconds.

    ``output``: the file to write it to, for `shard`'s ``cost`` and ``--hardware``; it must not exist. ``transport``,
    ``threads`` and ``timeout_s``: as for `load` and ``shardwright run``. Ranks run on GPUs where there are any, through
    NCCL. Nothing else should run meanwhile: what is measured is what is left. Raises `RunError` as ranks do.
    """
    check_count(num_ranks, "the number of ranks", least=2, error=RunError)
    path = None if output is None else check_free(output, "the cost model")
    if torch.cuda.is_available() and torch.cuda.device_count() < num_ranks:
        raise RunError(f"{num_ranks} ranks need as many GPUs, and here are {torch.cuda.device_count()}")
    how = {"transport": transport, "threads": threads, "timeout_s": timeout_s}
    ranks = list(launch(num_ranks, measure, num_ranks, **how).values())
    model = fit(ranks)
    if path is not None:
        write_cost_model(path, model, _facts(ranks))
    return model


def measure(num_ranks: int) -> Measured:
    """What one rank of a process group measures; all of them call it."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    group = make_group_objects(Mesh.of(num_ranks))["tp"]

    def meet(name: object) -> None:
        wait()
        dist.barrier(group=group)
        wait()

    collectives = {}
    for size, rounds in SIZES.items():
        each = max(size // 4 // num_ranks // num_ranks, 1) * num_ranks
        sent = 4 * each * num_ranks
        calls = _collectives(each, num_ranks, group.group_name, device)
        times = seconds_in_turn(behind_work(calls, device), rounds, before=meet, after=wait)
        alone = usual(times.pop(None))
        collectives.update(
            {
                (kind, sent): max(usual(seconds) - alone, _LEAST_S) / PIECES_OF_WORK * 1e6
                for kind, seconds in times.items()
                if kind is not None
            }
        )
    rates = _rates(device, meet, wait)
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    on_cpu = "shared memory" if carrier_of(group) == BACKEND else "gloo"
    return Measured(name, "NCCL" if on_gpu else on_cpu, torch.get_num_threads(), collectives, **rates)


def _collectives(
    each: int, num_ranks: int, group: str, device: torch.device
) -> dict[CollectiveKind, Callable[[], object]]:
    """One collective of each kind on a value of ``each`` float32 elements a rank, a multiple of the ranks."""
    whole, piece = torch.zeros(each * num_ranks, device=device), torch.zeros(each, device=device)
    splits = [each // num_ranks] * num_ranks
    wait = _c10d.wait_tensor
    return {
        CollectiveKind.ALL_REDUCE: lambda: wait(_c10d.all_reduce(whole, "sum", group)),
        CollectiveKind.ALL_GATHER: lambda: wait(_c10d.all_gather_into_tensor(piece, num_ranks, group)),
        CollectiveKind.REDUCE_SCATTER: lambda: wait(_c10d.reduce_scatter_tensor(whole, "sum", num_ranks, group)),
        CollectiveKind.ALL_TO_ALL: lambda: wait(_c10d.all_to_all_single(piece, splits, splits, group)),
    }


def behind_work(
    calls: Mapping[CollectiveKind, Callable[[], object]], device: torch.device
) -> dict[CollectiveKind | None, Callable[[], object]]:
    """Rounds of every collective, each time behind work; None: of the work alone."""
    weights = [torch.ones(512, 512, device=device) for _ in range(PIECES_OF_WORK)]
    x = torch.ones(1, 512, device=device)

    def round_of(call: Callable[[], object]) -> None:
        for weight in weights:
            torch.add(linear(x, weight), x)
            call()

    return {
        None: lambda: round_of(lambda: None),
        **{kind: lambda call=call: round_of(call) for kind, call in calls.items()},
    }


def _rates(device: torch.device, meet: Callable[[object], None], wait: Callable[[], object]) -> dict[str, float]:
    """The constants of work: memory, matmuls and calls, measured while the other ranks measure theirs."""
    on_gpu = device.type == "cuda"
    width, rows, features = (16384, 4096, 4096) if on_gpu else (4096, 512, 1024)
    matrix, vector = torch.ones(width, width, device=device), torch.ones(1, width, device=device)
    calls: dict[str, Callable[[], object]] = {"memory": lambda: linear(vector, matrix)}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(rows, features, dtype=dtype, device=device)
        weight = torch.ones(features, features, dtype=dtype, device=device)
        calls[str(dtype)] = lambda x=x, weight=weight: linear(x, weight)
    one = torch.ones(1)
    calls["calls"] = lambda: [torch.ops.aten.add.Tensor(one, one) for _ in range(1000)]
    times = {name: usual(seconds) for name, seconds in seconds_in_turn(calls, 20, before=meet, after=wait).items()}
    flops = 2 * rows * features * features / 1e6
    return {
        "memory_bytes_per_us": matrix.nbytes / times["memory"] / 1e6,
        "flops_per_us": flops / times["torch.bfloat16"],
        "float32_flops_per_us": flops / times["torch.float32"],
        "call_us": 0.0 if on_gpu else times["calls"] * 1e3,
    }


def fit(ranks: Sequence[Measured]) -> CostModel:
    """The model closest to what was measured: collectives by their slowest rank, work by the ranks' mean."""
    num_ranks, first = len(ranks), ranks[0]
    slowest = _slowest(ranks)
    unit = CostModel(latency_us=1e-9, link_bytes_per_us=1)
    sent = {(kind, size): unit.collective_us(kind, size, num_ranks) for kind, size in slowest}
    scatters = {key for key in slowest if key[0] is CollectiveKind.REDUCE_SCATTER}
    others = [key for key in slowest if key not in scatters]
    rows = np.array([[1 / slowest[key], sent[key] / slowest[key]] for key in others])
    latency_us, us_per_byte = np.maximum(np.linalg.lstsq(rows, np.ones(len(others)), rcond=None)[0], (1e-3, 1e-9))
    # Of latencies that are the same for all kinds, a scatter's bytes explain the rest.
    weights = np.array([sent[key] * us_per_byte / slowest[key] for key in scatters])
    rest = np.array([1 - latency_us / slowest[key] for key in scatters])
    passes = min(max(float(weights @ rest / (weights @ weights)), 1.0), 2.0)
    return CostModel(
        latency_us=_digits(latency_us),
        link_bytes_per_us=_digits(1 / us_per_byte),
        memory_bytes_per_us=_digits(np.mean([rank.memory_bytes_per_us for rank in ranks])),
        flops_per_us=_digits(np.mean([rank.flops_per_us for rank in ranks])),
        float32_flops_per_us=_digits(np.mean([rank.float32_flops_per_us for rank in ranks])),
        reduce_scatter_passes=_digits(passes),
        call_us=_digits(np.mean([rank.call_us for rank in ranks])),
        name=f"{num_ranks} × {first.device} through {first.transport}",
    )


def _slowest(ranks: Sequence[Measured]) -> dict[tuple[CollectiveKind, int], float]:
    """The time of each collective on the rank where it took longest."""
    return {key: max(rank.collectives[key] for rank in ranks) for key in ranks[0].collectives}


def _digits(value: Any) -> float:
    """To three digits: more would be noise."""
    return float(f"{float(value):.3g}")


def _facts(ranks: Sequence[Measured]) -> dict[str, Any]:
    """How it was measured, for people."""
    first = ranks[0]
    slowest = _slowest(ranks)
    return {
        "ranks": len(ranks),
        "device": first.device,
        "transport": first.transport,
        "threads": first.threads,
        "torch": str(torch.__version__),
        "collectives_us": {f"{kind} {size}": round(us, 1) for (kind, size), us in slowest.items()},
    }
